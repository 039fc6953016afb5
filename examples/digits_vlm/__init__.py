"""A small mixture-of-experts vision-language model that answers questions about handwritten digits.

``python -m digits_vlm.train --out DIR`` trains it and writes ``DIR/model.pt``.
"""
