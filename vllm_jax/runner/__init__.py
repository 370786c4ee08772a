"""From a ScheduledBatch to sampled tokens: device batches, jitted steps, KV pages, shape registry, warm-up."""
