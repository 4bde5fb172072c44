"""The tests: unit, scripts, integration, conformance, model, contracts."""
