"""The names of a picture store's folder and files; nothing else is loaded with them."""

FOLDER = "visualizations"
PANELS, METRICS, RUN, FINDINGS = "panels.jsonl", "metrics.jsonl", "run.json", "findings.json"
