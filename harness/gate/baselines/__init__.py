"""What somebody has accepted: baselines, what small losses add up to, and waivers."""
