"""How good the gate is: traces, replays, the rules of others, trials, and the self-test."""
