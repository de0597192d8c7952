package api

import "time"

// Inventory describes what an agent has and runs, asked for each time and never
// assumed.
type Inventory struct {
	Agent AgentInfo `json:"agent"`
	// DeploymentID and Instance are empty until the agent was configured.
	DeploymentID string `json:"deployment_id,omitempty"`
	Instance     string `json:"instance,omitempty"`
	VMID         string `json:"vm_id,omitempty"`
	BootID       string `json:"boot_id"`
	// Epoch is the highest lease epoch that the agent has accepted.
	Epoch uint64 `json:"epoch"`
	// PublicKey is the agent's own, PKIX DER; its certificate must be for this key.
	PublicKey []byte    `json:"public_key,omitempty"`
	Bus       BusStatus `json:"bus"`

	Installed

	State        InstanceState   `json:"state"`
	Reasons      []string        `json:"reasons,omitempty"` // why State is not running
	HealthySince *time.Time      `json:"healthy_since,omitempty"`
	Processes    []ProcessStatus `json:"processes,omitempty"`
	// Running is the operation in progress, if any.
	Running *Operation `json:"running,omitempty"`
	// Drift holds what was changed by hand since it was installed, as far as times,
	// sizes and inodes show it; at most MaxDrift. MethodDrift reads every byte.
	Drift []Drift `json:"drift,omitempty"`
	// MetricsPort is as configured, 0 for none.
	MetricsPort int `json:"metrics_port,omitempty"`
	// Syslog is as configured.
	Syslog string `json:"syslog,omitempty"`
	// Names is the NamesDigest of the names that the VM has; "" if it has none, or
	// others than was configured.
	Names string `json:"names,omitempty"`
	// Vitals are the VM's own figures.
	Vitals *Vitals `json:"vitals,omitempty"`
	// Now is the time by the VM's clock.
	Now time.Time `json:"now,omitzero"`
}

// Installed lists the generations and packages on an agent's VM.
type Installed struct {
	Store       []string     `json:"store,omitempty"` // digests of unpacked packages
	Generations []Generation `json:"generations,omitempty"`
	Active      string       `json:"active,omitempty"`   // generation
	Previous    string       `json:"previous,omitempty"` // generation that rollback returns to
	// Interrupted is set while an update has begun and has not ended well: there is
	// still something to do although Active may be the wanted generation.
	Interrupted bool `json:"interrupted,omitempty"`
	// Held is set when an operator has stopped the instance (Stop.Hold), and nothing
	// but KindStart starts it. Active is then what would run.
	Held bool `json:"held,omitempty"`
	// Census are the jobs of the active generation that MethodCensus asks.
	Census []string `json:"census,omitempty"`
}

// MaxDrift is the number of differences that an inventory names.
const MaxDrift = 100

// DriftKind says how something differs from what was installed.
type DriftKind string

const (
	DriftChanged DriftKind = "changed"
	DriftMissing DriftKind = "missing"
	DriftExtra   DriftKind = "extra"
	DriftMode    DriftKind = "mode" // the content is as it was, mode or owner are not
	// DriftBus: a file of the VM's image with message-bus URIs that are not, or no
	// longer, as the active generation wants them.
	DriftBus DriftKind = "bus"
)

// Drift is one difference between what was installed and what is there. It
// holds no digest: what is wanted and what is there are compared on the VM.
type Drift struct {
	Path string    `json:"path"` // below the agent's folder, slash-separated; else absolute
	Kind DriftKind `json:"kind"`
	// Reason says more, without secrets.
	Reason string `json:"reason,omitempty"`
	// Job or Package is what the path belongs to; neither for an agent's own.
	Job     string `json:"job,omitempty"`
	Package string `json:"package,omitempty"`
	// Restart and Reload are the processes ("job/process") that may have loaded
	// what is there: when it is repaired they are started anew, or reload.
	Restart []string `json:"restart,omitempty"`
	Reload  []string `json:"reload,omitempty"`
	// Left: an update does not repair it. So are files added to packages, which
	// programs write there themselves.
	Left bool `json:"left,omitempty"`
}

// String is "jobs/hello/hello.yml changed by hand".
func (d Drift) String() string {
	if d.Reason != "" {
		return d.Reason
	}
	what := map[DriftKind]string{
		DriftMissing: "removed by hand", DriftExtra: "added by hand", DriftMode: "has another mode or owner",
	}[d.Kind]
	if what == "" {
		what = "changed by hand"
	}
	return d.Path + " " + what
}

// DriftReport answers MethodDrift.
type DriftReport struct {
	Drift []Drift `json:"drift,omitempty"`
}

// AgentInfo describes the agent program.
type AgentInfo struct {
	Version string `json:"version"`
	Digest  string `json:"digest"` // sha256 of the executable
	// API is the Version of this API that the agent speaks; 0 from before it was
	// told.
	API       int       `json:"api"`
	PID       int       `json:"pid"`
	StartedAt time.Time `json:"started_at"`
	OS        string    `json:"os"`
	Arch      string    `json:"arch"`
	Dir       string    `json:"dir"`
	// Unkept: what has started this agent, its machine's init or a keeper, has ended,
	// so that nothing would start it again. Another install repairs that.
	Unkept bool `json:"unkept,omitempty"`
	// DiskGone is the persistent disk that was there and is not any more.
	DiskGone string `json:"disk_gone,omitempty"`
	// Damaged says what is wrong with the agent's own programs and files: what is
	// missing, and what was set aside. Another install and configure repair it.
	Damaged []string `json:"damaged,omitempty"`
}

// BusStatus is the agent's view of its connection.
type BusStatus struct {
	URLs      []string `json:"urls,omitempty"`
	Connected bool     `json:"connected"`
	Error     string   `json:"error,omitempty"`
	// CertificateEnds is when the agent's own certificate ends.
	CertificateEnds *time.Time `json:"certificate_ends,omitempty"`
	// Digest is the keyed digest of the settings in use, as configured.
	Digest string `json:"digest,omitempty"`
}

// GenerationState describes how far a generation has come.
type GenerationState string

const (
	GenerationStaged GenerationState = "staged" // files and packages there, checked
	GenerationActive GenerationState = "active"
	GenerationOld    GenerationState = "old" // was active; kept for rollback
)

// Generation is one spec on the agent's disk.
type Generation struct {
	Digest string          `json:"digest"`
	State  GenerationState `json:"state"`
}

// InstanceState is the one health rule's answer: all expected processes run
// with the wanted digests and pass their checks.
type InstanceState string

const (
	InstanceRunning  InstanceState = "running"
	InstanceStarting InstanceState = "starting" // not yet, but nothing has failed
	InstanceFailing  InstanceState = "failing"
	InstanceStopped  InstanceState = "stopped" // nothing is wanted to run
)

// ProcessState is the supervisor's state of a process.
type ProcessState string

const (
	ProcessStarting ProcessState = "starting" // runs, checks have not passed yet
	ProcessRunning  ProcessState = "running"
	ProcessFailing  ProcessState = "failing" // runs, a check fails
	ProcessBackoff  ProcessState = "backoff" // ended by itself; will be started again
	ProcessStopping ProcessState = "stopping"
	ProcessStopped  ProcessState = "stopped" // as wanted
)

// ProcessStatus is one process as it is.
type ProcessStatus struct {
	Job   string       `json:"job"`
	Name  string       `json:"name"`
	State ProcessState `json:"state"`
	PID   int          `json:"pid,omitempty"`
	// StartedAt is when the running process was started.
	StartedAt *time.Time `json:"started_at,omitempty"`
	// Digest and ReloadDigest are those that the running process was started
	// with and last loaded.
	Digest       string `json:"digest,omitempty"`
	ReloadDigest string `json:"reload_digest,omitempty"`
	// Generation is that of the spec it was started from.
	Generation string  `json:"generation,omitempty"`
	Restarts   int     `json:"restarts"` // unexpected ends since the agent was told to start it
	LastExit   *Exit   `json:"last_exit,omitempty"`
	Reason     string  `json:"reason,omitempty"` // why failing or in backoff
	RSSBytes   int64   `json:"rss_bytes,omitempty"`
	CPUPercent float64 `json:"cpu_percent"`
	// CPUSeconds is the time that it and its children have used since its start.
	CPUSeconds float64 `json:"cpu_seconds,omitempty"`
	// Facts holds values by name, such as "isolation", from the process's last answer
	// to GET /ready; at most MaxFacts.
	Facts map[string]string `json:"facts,omitempty"`
}

// MaxFacts is the largest number of facts that an agent reports of a process.
const MaxFacts = 16

// Exit describes how a process ended.
type Exit struct {
	Status int       `json:"status"`           // exit status, -1 if ended by a signal or unknown
	Signal string    `json:"signal,omitempty"` // "KILL"
	At     time.Time `json:"at"`
	// Expected: the agent asked for it.
	Expected bool `json:"expected,omitempty"`
}

// Heartbeat is published every 10 s, jittered, and at every transition.
type Heartbeat struct {
	DeploymentID string          `json:"deployment_id"`
	Instance     string          `json:"instance"`
	BootID       string          `json:"boot_id"`
	Sequence     uint64          `json:"sequence"`
	At           time.Time       `json:"at"`
	State        InstanceState   `json:"state"`
	Generation   string          `json:"generation,omitempty"`
	Processes    []ProcessStatus `json:"processes,omitempty"`
	Vitals       Vitals          `json:"vitals"`
}

// Vitals are the VM's own figures.
type Vitals struct {
	Load1           float64 `json:"load1"`
	MemoryBytes     int64   `json:"memory_bytes"`
	MemoryUsedBytes int64   `json:"memory_used_bytes"`
	DiskBytes       int64   `json:"disk_bytes"` // of the agent's folder's file system
	DiskUsedBytes   int64   `json:"disk_used_bytes"`
}
