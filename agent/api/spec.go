package api

// Spec is everything that one instance shall be. The deployer renders it, the
// agent stages it as a generation. It is complete: an agent needs nothing else
// but the packages' bytes.
type Spec struct {
	// Generation is the keyed digest of all the rest, as the deployer computed it.
	Generation string `json:"generation"`
	Deployment string `json:"deployment"` // name, for people
	Instance   string `json:"instance"`   // "router/0"
	Group      string `json:"group"`
	Index      int    `json:"index"`
	AZ         string `json:"az,omitempty"`
	Address    string `json:"address"`
	Jobs       []Job  `json:"jobs"`
	// Packages hold what the jobs' commands need, each once.
	Packages []Package `json:"packages,omitempty"`
	// SystemPackages come from the VM's own package manager.
	SystemPackages []SystemPackage `json:"system_packages,omitempty"`
	// Firewall bounds what reaches the VM; nil: nothing is bounded.
	Firewall *Firewall `json:"firewall,omitempty"`
}

// Firewall says what may reach an instance's VM beside the deployment's other VMs, whose
// addresses are those of Configure.Names.
type Firewall struct {
	// SSH are the ports at which deploy logs in.
	SSH []int `json:"ssh"`
	// Allow are the addresses, or ranges of them, that reach every port.
	Allow []string `json:"allow,omitempty"`
	// Public are the ports that everybody reaches.
	Public []PublicPort `json:"public,omitempty"`
}

// PublicPort is a port that clients outside of the deployment reach.
type PublicPort struct {
	Network string `json:"network"` // "tcp" or "udp"
	Number  int    `json:"number"`
}

// Package is content-addressed: its bytes unpack to store/<Digest>/ below the
// agent's folder.
type Package struct {
	Name   string `json:"name"`
	Digest string `json:"digest"` // sha256 of the archive, 64 hex
	Size   int64  `json:"size"`   // bytes of the archive
	Format string `json:"format"` // PackageTarGz
}

// PackageTarGz is the only package format: a gzip-compressed tar, entries below ".".
const PackageTarGz = "tar.gz"

// SystemPackage is a program that the VM's package manager owns.
type SystemPackage struct {
	Name string `json:"name"` // as the job names it
	// Program must be found on the VM's PATH (or at this absolute path).
	Program string `json:"program"`
	// Apt are the Debian packages that provide it. Installed by the agent only
	// when it runs as root on a VM of its own; else a missing program is an error
	// that names them.
	Apt []string `json:"apt,omitempty"`
}

// Job is one job on one instance.
type Job struct {
	Name      string    `json:"name"`
	Files     []File    `json:"files,omitempty"`
	Processes []Process `json:"processes,omitempty"`
	Hooks     []Hook    `json:"hooks,omitempty"`
	Listens   []Listen  `json:"listens,omitempty"`
	Mbus      *Mbus     `json:"mbus,omitempty"`
	// Inputs hold what the job was rendered from ("property.port",
	// "link.bus.instances", "template.router.yml"), each with a keyed digest of its
	// value, so that a later plan can tell which of them changed. The agent only
	// keeps them; Generation does not cover them.
	Inputs map[string]string `json:"inputs,omitempty"`
	// Commands are the commands of processes, by name, as people may see them: in
	// place of what is sensitive stands "(sensitive)". As Inputs, for a later plan.
	Commands map[string][]string `json:"commands,omitempty"`
}

// Mbus asks for the message-bus URIs in files of the VM's image to be rewritten
// in place before the job's processes start. A process is concerned by the
// files that its command or environment names; if it names none, by those that
// are called as it or its job is; if there are none, by all. Where other URIs
// stand than the active generation wants, it is restarted at the next update.
type Mbus struct {
	// Folder is the place where the image's files are, absolute.
	Folder string `json:"folder"`
	// Files are patterns as of path.Match, relative to Folder or absolute. One
	// that matches no file is an error.
	Files []string `json:"files"`
	// Servers are host:port each; without a port that of the URI stays.
	Servers []string `json:"servers"`
	// User and Password, not encoded; if both are empty those of the URI stay.
	User     string `json:"user,omitempty"`
	Password string `json:"password,omitempty"`
	Scheme   string `json:"scheme,omitempty"` // "": that of the URI stays
	// Choice spreads the instances over the servers where a file has room for one
	// only, and names none of them yet.
	Choice int `json:"choice"`
}

// OnChange says what a changed file asks of its job's processes.
type OnChange string

const (
	OnChangeRestart OnChange = "restart"
	OnChangeReload  OnChange = "reload"
	OnChangeNone    OnChange = "none"
)

// File is a rendered template, below jobs/<job>/ in the agent's folder.
type File struct {
	Path     string   `json:"path"` // relative, slash-separated, without ".."
	Mode     uint32   `json:"mode"` // permission bits, 0600 at the widest for secrets
	Content  []byte   `json:"content"`
	Digest   string   `json:"digest"` // keyed digest of content and mode
	OnChange OnChange `json:"on_change"`
	// Sensitive are the byte ranges of Content that hold secrets, ascending and
	// without overlap, so that a later diff can redact just those.
	Sensitive []Range `json:"sensitive,omitempty"`
}

// Range is a half-open range of bytes.
type Range struct {
	Start int `json:"start"`
	End   int `json:"end"`
}

// Process is something the agent keeps running. Commands and environment are
// resolved: no expressions, absolute paths.
type Process struct {
	Name    string            `json:"name"`
	Command []string          `json:"command"`
	Env     map[string]string `json:"env,omitempty"`
	Dir     string            `json:"dir,omitempty"`  // working folder; default: the job's data folder
	User    string            `json:"user,omitempty"` // default: the agent's own
	Limits  Limits            `json:"limits,omitzero"`

	KillMode   KillMode `json:"kill_mode,omitempty"`     // default KillGroup
	StopSignal string   `json:"stop_signal,omitempty"`   // default "TERM"
	StopGrace  int64    `json:"stop_grace_ms,omitempty"` // TERM to KILL; default 10,000

	// Control: the process serves the drain, readiness and reload contract on
	// the unix socket named in its environment as DEPLOY_CONTROL
	// (jobs/component/README.md is the page that describes it).
	Control bool    `json:"control,omitempty"`
	Checks  []Check `json:"checks,omitempty"`
	Reload  *Reload `json:"reload,omitempty"` // nil: a reload-class change restarts
	// Routes are the routes that the agent registers with the routers while the checks
	// pass. Digest does not cover them.
	Routes  []Route  `json:"routes,omitempty"`
	Restart *Restart `json:"restart,omitempty"`

	// Digest covers what the process was started with: command, environment,
	// limits, packages and restart-class files. ReloadDigest covers the
	// reload-class files. Both keyed, computed by the deployer; the agent
	// remembers the pair that each running process was started (last loaded)
	// with, and restart or reload is owed as long as they differ.
	Digest       string `json:"digest"`
	ReloadDigest string `json:"reload_digest"`
}

// KillMode says whom a stop reaches.
type KillMode string

const (
	KillProcess KillMode = "process" // the process alone gets the stop signal
	KillGroup   KillMode = "group"   // its process group; default
	KillCgroup  KillMode = "cgroup"  // everything in its cgroup, where there is one, else as group
)

// Limits are rlimits of a process; zero leaves the VM's.
type Limits struct {
	OpenFiles   uint64 `json:"open_files,omitempty"`
	MemoryBytes uint64 `json:"memory_bytes,omitempty"` // address space
	Processes   uint64 `json:"processes,omitempty"`
}

// Restart describes how a process that ended by itself is brought back: at once the
// first time, then doubling from Min to Max while it keeps ending within
// StableMS.
type Restart struct {
	MinMS    int64 `json:"min_ms,omitempty"`    // default 100
	MaxMS    int64 `json:"max_ms,omitempty"`    // default 30,000
	StableMS int64 `json:"stable_ms,omitempty"` // default 10,000
}

// CheckKind describes how a health check asks.
type CheckKind string

const (
	CheckHTTP    CheckKind = "http"    // GET Target (URL), 2xx or 3xx is healthy
	CheckTCP     CheckKind = "tcp"     // connect to Target (host:port)
	CheckExec    CheckKind = "exec"    // Command exits 0
	CheckControl CheckKind = "control" // GET /ready on the control socket; implied by Process.Control
)

// Check is one health check of a process.
type Check struct {
	Kind       CheckKind `json:"kind"`
	Target     string    `json:"target,omitempty"`
	Host       string    `json:"host,omitempty"` // Host header for http
	Command    []string  `json:"command,omitempty"`
	IntervalMS int64     `json:"interval_ms,omitempty"` // default 1,000
	TimeoutMS  int64     `json:"timeout_ms,omitempty"`  // default 1,000
	// Failures in a row before a check that has passed counts as failing; default 3.
	Failures int `json:"failures,omitempty"`
}

// Route has the routers send requests for a host to a port of the instance.
type Route struct {
	Host string `json:"host"` // lower case, without port
	Port int    `json:"port"`
	// DrainMS is the time between the word that the route goes and the drain of the
	// process, in which requests that are on their way arrive and end.
	DrainMS int64 `json:"drain_ms"`
	// User and Password admit the agent to the components' account of the bus, for
	// registrations only.
	User     string `json:"user"`
	Password string `json:"password"`
}

// Reload says how a process takes changed files without ending: one of the
// three. Verify, if set, must exit 0 afterwards (within TimeoutMS), else the
// reload failed and the process keeps owing it.
type Reload struct {
	Signal    string   `json:"signal,omitempty"`  // "HUP"
	Command   []string `json:"command,omitempty"` // must exit 0
	Control   bool     `json:"control,omitempty"` // POST /reload on the control socket
	Verify    []string `json:"verify,omitempty"`
	TimeoutMS int64    `json:"timeout_ms,omitempty"` // default 10,000
}

// HookKind names a moment in an instance's life.
type HookKind string

const (
	HookCheck     HookKind = "check"      // before anything is touched; the staged files are in DEPLOY_STAGED
	HookPreStart  HookKind = "pre_start"  // after activate, before start
	HookPostStart HookKind = "post_start" // after healthy
	HookPreStop   HookKind = "pre_stop"   // before drain
	// HookDrain is run until it exits 0. If it then prints a number, in its last
	// line, that many seconds are waited; if the number is below 0 it is asked again
	// after them. All that within the hook's time.
	HookDrain      HookKind = "drain"
	HookPostStop   HookKind = "post_stop"   // after stop
	HookPostDeploy HookKind = "post_deploy" // once the whole deployment is updated
	HookErrand     HookKind = "errand"      // on request
	// HookCensus says on its standard output what lives on the instance: a line of
	// JSON for each Thing, and a last one with their number, {"total":3}.
	HookCensus HookKind = "census"
)

// Hook is a command of a job that the agent runs at a moment.
type Hook struct {
	Kind      HookKind          `json:"kind"`
	Name      string            `json:"name,omitempty"` // errands only
	Command   []string          `json:"command"`
	Env       map[string]string `json:"env,omitempty"`
	TimeoutMS int64             `json:"timeout_ms"` // always > 0
	// OnTimeout is "fail" (default) or "continue".
	OnTimeout string `json:"on_timeout,omitempty"`
	// RollbackCompatible, of pre_start: what it does to data does not hinder what
	// ran before, so that Update.Back may follow.
	RollbackCompatible bool `json:"rollback_compatible,omitempty"`
}

// Listen is a port that a job opens.
type Listen struct {
	Name    string `json:"name"`
	Network string `json:"network"` // "tcp" or "udp"
	Address string `json:"address"` // host:port
}
