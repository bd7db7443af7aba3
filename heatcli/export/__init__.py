"""The explanation leaves the tool: forward run, walk and ledger as one artifact that other runtimes run."""
