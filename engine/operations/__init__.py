"""The use cases of acctops, without a terminal: nothing here prints, asks, exits or handles a signal.

`session` composes one session of a run · `survey` reads the instances of a plan · `discovering` answers the matches of
a job · `preparing` compares a plan with its readings · `anew` checks a confirmed plan again · `family` finds the runs
linked to a run, and who holds its accounts · `success` finds when a job last succeeded · `attendance` sends the notices
of a run · `measuring` writes its metrics · `whose` and `twins` find out about keys and lanes beside the sending ·
`simulated` makes the world of a simulated run · `earlier` reads what earlier runs of a job mean for the next · `events`
defines what the caller is told meanwhile.
"""
