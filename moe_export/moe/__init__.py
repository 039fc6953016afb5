"""What a mixture-of-experts layer *is*: its specification, its ops and their meaning.

Nothing here knows PyTorch or any target.
"""
