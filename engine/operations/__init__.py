"""What acctops does, without a terminal: nothing here prints, asks, exits or handles a signal.

`session` one session of a run, composed · `survey` reading the instances of a plan · `discovering` the matches of a
job, answered · `preparing` a plan beside what was read · `anew` a confirmed plan, looked at again · `family` a run
with its reruns, and who holds its accounts · `success` when a job last succeeded · `attendance` who is told of a run
· `measuring` its metrics · `whose` and `twins` what is found out beside the sending · `simulated` the world of a
simulated run · `earlier` what earlier runs of a job mean for the next · `events` what is told meanwhile to whoever
started it.
"""
