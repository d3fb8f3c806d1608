"""Build the C++ operators: python -m reformer_dist.model.backends.native."""

from reformer_dist.model.backends.native.build import build

if __name__ == "__main__":
    print(f"compiled attention: {build()}")
