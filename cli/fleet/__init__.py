"""The fleet on one machine: embedded Valkey and Postgres, and a supervisor of processes.

`home` is the one folder with all state, `embedded` describes the two servers, `topology`
the services, `process` what a process needs to be supervised, `supervisor` keeps the
processes running and `status` tells and stops what runs.
"""
