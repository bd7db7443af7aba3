"""Explained models: forward run, walk and ledger written as one artifact for other runtimes."""
