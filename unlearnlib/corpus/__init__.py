"""Where documents come from, and the chunks of tokens that they are cut into (`chunks`).

Sources: `fictitious` (lab), `public` (open), `hub` (paper); a user's own in `files` or in memory
(`texts`). All give the `Document`s of `documents`.
"""
