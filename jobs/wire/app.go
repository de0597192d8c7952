package wire

import "encoding/json"

// Ways of finding out whether an instance runs.
const (
	CheckPort    = "port"    // its port answers
	CheckHTTP    = "http"    // GET of a path is answered with 200 to 399
	CheckProcess = "process" // it was started, and has not ended
	CheckFile    = "file"    // a file is there
)

// CheckTypes are all of them.
var CheckTypes = []string{CheckPort, CheckHTTP, CheckProcess, CheckFile}

// HealthCheck says when an instance that starts counts as running. The original has no
// such thing: its DEAs, and others, ignore it. What is zero is the DEA's choice.
type HealthCheck struct {
	Type string `json:"type,omitempty"`
	// Endpoint is the path of CheckHTTP, or the file of CheckFile below the app's
	// folder.
	Endpoint string `json:"endpoint,omitempty"`
	Timeout  int    `json:"timeout,omitempty"` // that a start may take, seconds
}

// RuntimeInfo describes how the later dialect describes a language runtime; the older
// one sends its name only.
type RuntimeInfo struct {
	Name        string `json:"name"`
	Version     string `json:"version,omitempty"`
	Description string `json:"description,omitempty"`
	Executable  string `json:"executable,omitempty"` // a path, or a name looked up in PATH
	// VersionFlag makes Executable print its version; "": "-v".
	VersionFlag string `json:"version_flag,omitempty"`
	// VersionOutput is a regular expression that what is printed must match.
	VersionOutput string `json:"version_output,omitempty"`
	// AdditionalChecks are further arguments whose output must contain "true".
	AdditionalChecks string              `json:"additional_checks,omitempty"`
	Environment      Tags                `json:"environment,omitempty"`
	DebugModes       []string            `json:"debug_modes,omitempty"`
	DebugEnv         map[string][]string `json:"debug_env,omitempty"` // mode to "K=V"
}

// BoundService is a service instance that an app is bound to, with the
// credentials of this binding. Credentials and Options pass as they are.
type BoundService struct {
	Name        string          `json:"name"`
	Label       string          `json:"label"` // "redis-2.2"
	Plan        string          `json:"plan"`
	PlanOption  *string         `json:"plan_option"`
	Tags        []string        `json:"tags"`
	Type        string          `json:"type"`
	Vendor      string          `json:"vendor"`
	Version     string          `json:"version"`
	Credentials json.RawMessage `json:"credentials"`
	Options     json.RawMessage `json:"options"`
}
