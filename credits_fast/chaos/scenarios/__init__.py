"""The scenarios, by what they break; `credits_fast.chaos.catalogue` has all of them."""
