"""From targets to a plan, in the light of readings and of other runs.

`plan` which calls, in which order, and what is left out · `outlook` how each account stands · `admins` who must stay
able to log in · `turns` so many changes a run · `undo` what brings a run back · `routes` which lanes take a call ·
`policy` how long to try · `discovery` what a match finds.
"""
