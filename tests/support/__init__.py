"""What tests share: small jobs, stores, runs, processes and independent truths."""
