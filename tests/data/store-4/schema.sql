CREATE TABLE meta (
  key TEXT NOT NULL,
  value TEXT NOT NULL,
  PRIMARY KEY (key)
);
CREATE TABLE alerts (
  seq {key} NOT NULL,
  alert_id TEXT NOT NULL,
  time_us BIGINT NOT NULL,
  start_us BIGINT,
  end_us BIGINT,
  src_ip TEXT,
  src_port INTEGER,
  dst_ip TEXT,
  dst_port INTEGER,
  protocol TEXT,
  community_id TEXT,
  class TEXT NOT NULL,
  label TEXT,
  score {real},
  anomaly {real},
  unknown BOOLEAN,
  severity SMALLINT NOT NULL,
  fwd_packets BIGINT,
  bwd_packets BIGINT,
  fwd_bytes BIGINT,
  bwd_bytes BIGINT,
  probabilities TEXT,
  model TEXT,
  suppressed_by TEXT,
  evidence BIGINT,
  evidence_row SMALLINT,
  incident_key TEXT NOT NULL,
  source TEXT NOT NULL,
  PRIMARY KEY (seq),
  UNIQUE (alert_id)
);
CREATE INDEX alerts_by_time ON alerts (time_us);
CREATE INDEX alerts_by_src ON alerts (src_ip, incident_key, time_us);
CREATE INDEX alerts_by_dst ON alerts (dst_ip, incident_key, time_us);
CREATE INDEX alerts_by_port ON alerts (dst_port, incident_key, time_us);
CREATE INDEX alerts_by_incident ON alerts (incident_key, time_us);
CREATE INDEX alerts_owed ON alerts (suppressed_by, seq);
CREATE TABLE evidence (
  evidence {key} NOT NULL,
  newest_us BIGINT NOT NULL,
  data {bytes} NOT NULL,
  PRIMARY KEY (evidence)
);
CREATE TABLE incidents (
  incident_id TEXT NOT NULL,
  incident_key TEXT NOT NULL,
  role TEXT NOT NULL,
  host TEXT NOT NULL,
  class TEXT NOT NULL,
  first_us BIGINT NOT NULL,
  last_us BIGINT NOT NULL,
  n_alerts BIGINT NOT NULL,
  severity SMALLINT NOT NULL,
  score {real},
  n_ports BIGINT NOT NULL,
  n_hosts BIGINT NOT NULL,
  ports TEXT NOT NULL,
  hosts TEXT NOT NULL,
  PRIMARY KEY (incident_id)
);
CREATE INDEX incidents_by_key ON incidents (incident_key, last_us);
CREATE INDEX incidents_by_host ON incidents (host, last_us);
CREATE INDEX incidents_by_time ON incidents (last_us);
CREATE TABLE incident_states (
  incident_id TEXT NOT NULL,
  status TEXT NOT NULL,
  note TEXT NOT NULL,
  changed_us BIGINT NOT NULL,
  PRIMARY KEY (incident_id)
);
CREATE TABLE incident_aliases (
  old_id TEXT NOT NULL,
  new_id TEXT NOT NULL,
  PRIMARY KEY (old_id)
);
CREATE TABLE allow_rules (
  rule_id TEXT NOT NULL,
  src TEXT,
  dst TEXT,
  host TEXT,
  peer TEXT,
  port TEXT,
  class TEXT,
  expires_us BIGINT,
  note TEXT NOT NULL,
  origin TEXT NOT NULL,
  in_force BOOLEAN NOT NULL,
  PRIMARY KEY (rule_id)
);
CREATE TABLE sources (
  name TEXT NOT NULL,
  position TEXT,
  n_flows BIGINT DEFAULT 0 NOT NULL,
  n_alerts BIGINT DEFAULT 0 NOT NULL,
  n_duplicates BIGINT DEFAULT 0 NOT NULL,
  n_suppressed BIGINT DEFAULT 0 NOT NULL,
  updated_us BIGINT DEFAULT 0 NOT NULL,
  PRIMARY KEY (name)
);
CREATE TABLE source_memory (
  source TEXT NOT NULL,
  part TEXT NOT NULL,
  seq BIGINT NOT NULL,
  data {bytes} NOT NULL,
  PRIMARY KEY (source, part, seq)
);
CREATE TABLE losses (
  source TEXT NOT NULL,
  kind TEXT NOT NULL,
  reason TEXT NOT NULL,
  n BIGINT DEFAULT 0 NOT NULL,
  PRIMARY KEY (source, kind, reason)
);
CREATE TABLE deliveries (
  sink TEXT NOT NULL,
  last_seq BIGINT DEFAULT 0 NOT NULL,
  n_delivered BIGINT DEFAULT 0 NOT NULL,
  n_dead BIGINT DEFAULT 0 NOT NULL,
  n_lost BIGINT DEFAULT 0 NOT NULL,
  PRIMARY KEY (sink)
);
CREATE TABLE alert_counts (
  minute_us BIGINT NOT NULL,
  class TEXT NOT NULL,
  severity SMALLINT NOT NULL,
  n BIGINT DEFAULT 0 NOT NULL,
  PRIMARY KEY (minute_us, class, severity)
);
CREATE TABLE flow_counts (
  source TEXT NOT NULL,
  minute_us BIGINT NOT NULL,
  n_flows BIGINT DEFAULT 0 NOT NULL,
  n_alerts BIGINT DEFAULT 0 NOT NULL,
  PRIMARY KEY (source, minute_us)
);
CREATE TABLE engines (
  source TEXT NOT NULL,
  updated_us BIGINT NOT NULL,
  state TEXT NOT NULL,
  PRIMARY KEY (source)
);
CREATE TABLE drift_counts (
  source TEXT NOT NULL,
  model TEXT NOT NULL,
  hour_us BIGINT NOT NULL,
  n_flows BIGINT NOT NULL,
  counts {bytes} NOT NULL,
  PRIMARY KEY (source, model, hour_us)
);
CREATE TABLE feedback (
  feedback_id {serial} NOT NULL,
  subject TEXT NOT NULL,
  subject_id TEXT NOT NULL,
  verdict TEXT NOT NULL,
  class TEXT,
  note TEXT NOT NULL,
  analyst TEXT NOT NULL,
  time_us BIGINT NOT NULL,
  PRIMARY KEY (feedback_id)
);
CREATE INDEX feedback_by_subject ON feedback (subject, subject_id);
CREATE TABLE models (
  model_id TEXT NOT NULL,
  model TEXT NOT NULL,
  name TEXT NOT NULL,
  file {bytes} NOT NULL,
  added_us BIGINT NOT NULL,
  added_by TEXT NOT NULL,
  comparison TEXT,
  PRIMARY KEY (model_id)
);
CREATE TABLE activations (
  activation_id {serial} NOT NULL,
  model_id TEXT NOT NULL,
  analyst TEXT NOT NULL,
  note TEXT NOT NULL,
  time_us BIGINT NOT NULL,
  PRIMARY KEY (activation_id)
);
CREATE TABLE tokens (
  token_id TEXT NOT NULL,
  name TEXT NOT NULL,
  role TEXT NOT NULL,
  hash TEXT NOT NULL,
  created_us BIGINT NOT NULL,
  expires_us BIGINT,
  revoked_us BIGINT,
  used_us BIGINT,
  PRIMARY KEY (token_id),
  UNIQUE (hash)
);
CREATE TABLE sessions (
  hash TEXT NOT NULL,
  token_id TEXT NOT NULL,
  csrf TEXT NOT NULL,
  created_us BIGINT NOT NULL,
  expires_us BIGINT NOT NULL,
  PRIMARY KEY (hash)
);
CREATE TABLE audit (
  audit_id {serial} NOT NULL,
  time_us BIGINT NOT NULL,
  actor TEXT NOT NULL,
  action TEXT NOT NULL,
  subject TEXT NOT NULL,
  detail TEXT NOT NULL,
  address TEXT NOT NULL,
  PRIMARY KEY (audit_id)
);
CREATE TABLE schema_version (
  version_num VARCHAR(32) NOT NULL
);
