"""The report of a run: what each section shows, the pictures, and the page and the Markdown file made of them."""
