"""Names of the files that an audit and a plan leave behind."""

TABLE_FILE, SUMMARY_FILE = "audit.parquet", "audit.json"
PLAN_FILE = "plan.json"
AUDIT_PAGE, PLAN_PAGE = "audit.html", "plan.html"
PLAIN_FILE, ARGILLA_FILE, LABEL_STUDIO_FILE = "to_label.jsonl", "argilla.json", "label_studio.json"
LABEL_STUDIO_CONFIGURATION = "label_studio.xml"
AUDIT_FILES = (TABLE_FILE, SUMMARY_FILE, AUDIT_PAGE)
PLAN_FILES = (PLAN_FILE, PLAN_PAGE, PLAIN_FILE, ARGILLA_FILE, LABEL_STUDIO_FILE, LABEL_STUDIO_CONFIGURATION)
