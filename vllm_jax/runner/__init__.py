"""From a ScheduledBatch to sampled tokens: device batches, programs, KV pages, shape registry, warm-up."""
