"""Sources of documents: `fictitious` (lab), `public` (open), `hub` (paper), `files` (yours)."""
