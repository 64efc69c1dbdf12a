"""Jobs on a cluster, through the HTTP address of its dashboard; why so: docs/cluster.md.

request.py    what a command line asks for, checked here as far as it can be
bundle.py     what is shipped: code, config, versions
dashboard.py  the jobs of a cluster: submitted, followed, listed, stopped

What runs there, ahead of the command, is jobs/arrival.py: is this the environment that it needs?
"""
