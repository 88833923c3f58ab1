"""From targets to a plan, in the light of readings and of other runs.

`plan` which calls, in which order, and what is left out · `outlook` how each account stands · `admins` who must stay
able to log in · `turns` how many changes a run makes · `undo` what brings a run back · `routes` which lanes take a
call · `policy` the CAM policy a job needs · `discovery` which instances exist · `refusals` when a plan is too large.
"""
