"""Reports for people, made from the manifest alone: Markdown, and one HTML page without outside resources."""
