"""Documents to batches: finding, preparing, packing and feeding them."""
