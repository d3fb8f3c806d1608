"""Build the C++ operators: python -m reformer_dist.model.native."""

from reformer_dist.model.native.build import build

if __name__ == "__main__":
    print(f"compiled attention: {build()}")
