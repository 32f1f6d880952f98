//! Tests of the ledger as such; what it decides is tested through the stores by the conformance suite.
