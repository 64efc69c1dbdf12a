"""Jobs on a cluster, by the HTTP address of its dashboard; the reasons are in docs/cluster.md.

request.py    checks a command line as far as possible on this machine
bundle.py     packs what is shipped: code, config, versions
dashboard.py  submits, follows, lists and stops the jobs of a cluster

On the cluster, jobs/arrival.py runs before the command and checks the environment.
"""
