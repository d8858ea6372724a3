"""Selected documents as files, their manifest, and the check of both."""
