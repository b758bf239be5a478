"""Compare nearfar with the standard library and bare ZeroMQ on this machine: speed, memory, and the cost of
faults.

`settings` holds amounts and names, `runner` plans the measurements and runs each in a process group of its
own with a time limit, `transports` and `pools` open what is compared, `workloads` and `faults` measure it,
and `report` tells the results on a terminal and as an HTML page.
"""
