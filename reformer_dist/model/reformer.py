"""The Reformer language model on one device; it knows nothing of process groups.

In: tokens [B, T], a whole sequence or one shard of it. Out: logits [B, T, V], or the summed loss and the token count.

Legend: B batch, T tokens of this shard, E model dimension, V vocabulary.
"""

from torch import Tensor

from reformer_dist.model.attention.layer import Attention
from reformer_dist.model.context import Context
from reformer_dist.model.layers.feed_forward import FeedForward
from reformer_dist.model.reversible.stack import ReversibleStack
from reformer_dist.model.token_model import TokenModel, check_labels, checked_positions, drop_embeddings


class ReformerLM(TokenModel):
    """Embeddings, reversible blocks and an output layer (Kitaev, Kaiser and Levskaya 2020).

    Both streams start as the embeddings, and the output layer reads both, as in trax and Hugging Face.
    """

    def _make_stack(self) -> None:
        config = self.config
        blocks = (
            {"attention": Attention(config, i, self.budget), "feed_forward": FeedForward(config, i, self.budget)}
            for i in range(len(config.layers))
        )
        self.stack = ReversibleStack(blocks, config.reversible)

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        *,
        step: int = 0,
        first_row: int = 0,
        first_position: int = 0,
    ) -> Tensor:
        """Logits of the next token (causal) or of each token (not causal).

        Args:
            tokens: [B, T] int64.
            positions: [B, T] int64 indices of the position embedding; by default first_position, first_position + 1, ...
            documents: [B, T] int64, tokens see only their own document; -1 is padding. By default one document.
            step: training step, for dropout and hash rotations; evaluation always hashes as step 0.
            first_row: index in the step's global batch of row 0, for dropout.
            first_position: index in the whole sequence of token 0.

        Returns:
            [B, T, V], float32 (float64 for a float64 model).

        Raises:
            ValueError: tokens of another shape or dtype, or longer than max_length.

        """
        context = Context(documents, step, first_row, first_position)
        return self.output(*self._streams(tokens, positions, context))

    def loss(
        self,
        tokens: Tensor,
        labels: Tensor,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        *,
        step: int = 0,
        first_row: int = 0,
        first_position: int = 0,
    ) -> tuple[Tensor, Tensor]:
        """Summed cross entropy in nats and the number of scored tokens, both scalars; divide once, by the global count.

        Args:
            labels: [B, T] int64, already shifted; -100 is not scored.
            tokens: and the others as in `forward`.
            positions: see `forward`.
            documents: see `forward`.
            step: see `forward`.
            first_row: see `forward`.
            first_position: see `forward`.

        """
        check_labels(labels, tokens)
        context = Context(documents, step, first_row, first_position)
        return self._summed_loss(self._embed(tokens, positions, context), context, labels)

    def _streams(self, tokens_BT: Tensor, positions_BT: Tensor | None, context: Context) -> tuple[Tensor, Tensor]:
        x_BTE = self._embed(tokens_BT, positions_BT, context)
        return self.stack(x_BTE, x_BTE, context)

    def _embed(self, tokens_BT: Tensor, positions_BT: Tensor | None, context: Context) -> Tensor:
        most = self.config.max_length
        positions_BT = checked_positions(tokens_BT, positions_BT, context.first_position, most, "max_length")
        return drop_embeddings(self.embed(tokens_BT, positions_BT), self.config, context, self.training)
