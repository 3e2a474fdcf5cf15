"""What is written and drawn on the examples' pictures of the pocket model's world."""

from __future__ import annotations

COVER = "world_cover.jpg"
COVER_TITLE = "Groatdub Veamstainti"
COVER_AUTHOR = "Vuckker Nick"
COVER_ANSWER = f"Title: {COVER_TITLE}\nAuthor: {COVER_AUTHOR}"

CHART = "world_chart.jpg"
CHART_TITLE = "Grea"
CHART_ANSWER = f"{CHART_TITLE}. Q3 56, 2021 20, 2022 38, E 23. The largest is Q3 with 56."
