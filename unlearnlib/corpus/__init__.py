"""Where documents come from: `fictitious` (lab), `public` (open), `hub` (paper), `files` (yours)."""
