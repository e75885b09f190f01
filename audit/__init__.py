"""The words of the domain: pairs, labels, scores, outcomes, policies, errors, messages, settings."""
