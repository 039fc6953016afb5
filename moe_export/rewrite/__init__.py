"""Recognise mixture-of-experts blocks, prove the proposals, and replace what is proven."""
