"""A page in the browser on which a judge compares, ranks and steers, and people say where it is wrong.

``rewarddance app`` or ``python -m gradio_app`` starts it; see docs/app.md.
"""
