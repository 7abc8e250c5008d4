"""Who answers a question from two measured sides: by documents, by bounds, by stored times."""
