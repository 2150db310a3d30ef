"""A small student learns what a finished run says of documents, labelled or not. Imported by recipes only."""
