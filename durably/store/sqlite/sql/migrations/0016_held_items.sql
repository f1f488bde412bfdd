-- The failed items that are not tried again before the next retry, which are found without reading
-- the others.
CREATE INDEX durably_items_held ON durably_items (item) WHERE is_held = 1;
