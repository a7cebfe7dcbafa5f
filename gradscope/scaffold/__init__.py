"""Subject files that ``gradscope init`` writes, filled in as far as the model can tell.

:mod:`~gradscope.scaffold.template` is the one for no model in particular;
:mod:`~gradscope.scaffold.source` finds what the user named, :mod:`~gradscope.scaffold.made_up`
spells the inputs that it takes, :mod:`~gradscope.scaffold.losses` chooses a loss by what it
returns, and :mod:`~gradscope.scaffold.draft` puts the file together. Nothing is imported here:
the template needs no torch.
"""

from __future__ import annotations

__all__: list[str] = []
