"""The links of the chain from chip to money, each a small pure library over sourced facts."""
