package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"
)

// Subjects of the DEAs, which run the instances of apps.
const (
	SubjectDEAStart       = "dea.start"        // DEAHello, published by a DEA once it serves
	SubjectDEAStatus      = "dea.status"       // request, payload {}; each DEA answers DEAStatus
	SubjectDEADiscover    = "dea.discover"     // request DEADiscover; who can answers DEAHello
	SubjectDEAStop        = "dea.stop"         // DEAStop, to all DEAs
	SubjectDEAUpdate      = "dea.update"       // DEAUpdate, to all DEAs
	SubjectDEAFind        = "dea.find.droplet" // request DEAFind; one DEAFound per instance
	SubjectDEALocate      = "dea.locate"       // no payload; each DEA publishes DEAAdvertise
	SubjectDEAAdvertise   = "dea.advertise"    // DEAAdvertise, published by a DEA
	SubjectDEAHeartbeat   = "dea.heartbeat"    // DEAHeartbeat, published by a DEA
	SubjectDEAShutdown    = "dea.shutdown"     // DEAShutdown, published by a DEA that begins to leave; the successor's
	SubjectDropletStatus  = "droplet.status"   // request, payload {}; one InstanceStats per running instance
	SubjectDropletExited  = "droplet.exited"   // DropletExited, published by a DEA
	SubjectDropletUpdated = "droplet.updated"  // DropletUpdated, published by the cloud controller
)

// SubjectDEAStartOf returns where one DEA, by its uuid, takes DEAStart documents.
func SubjectDEAStartOf(uuid string) string { return "dea." + uuid + ".start" }

// The DEA's times, as in the original.
const (
	DEAHeartbeatInterval = 10 * time.Second
	DEAAdvertiseInterval = 5 * time.Second
)

// DEAVersion is the protocol version of DEAHello, the last v1 DEA's.
const DEAVersion = 0.99

// States of an instance. A DEA reports the first three, the others pass.
const (
	StateStarting = "STARTING"
	StateRunning  = "RUNNING"
	StateCrashed  = "CRASHED"
	StateStopped  = "STOPPED"
	StateDeleted  = "DELETED"
	// StateShuttingDown is a DEA's, in DEAStatus, once it drains.
	StateShuttingDown = "SHUTTING_DOWN"
)

// Reasons of DropletExited.
const (
	ReasonStopped    = "STOPPED"
	ReasonCrashed    = "CRASHED" // it ended by itself, with whatever exit status
	ReasonShutdown   = "DEA_SHUTDOWN"
	ReasonEvacuation = "DEA_EVACUATION" // it still runs, for a moment: start it elsewhere
	ReasonFault      = "DEA_FAULT"      // the DEA could not start it, for no fault of the app's
)

// Limits describe what an instance may use at most. 0 is the default of each, see
// WithDefaults.
type Limits struct {
	Mem  int `json:"mem"`  // MB
	Disk int `json:"disk"` // MB
	FDs  int `json:"fds"`  // open files
}

// WithDefaults fills in what a message left out, as the original's DEA does.
func (l Limits) WithDefaults() Limits {
	if l.Mem <= 0 {
		l.Mem = 512
	}
	if l.Disk <= 0 {
		l.Disk = 256
	}
	if l.FDs <= 0 {
		l.FDs = 1024
	}
	return l
}

// DEAHello says where a DEA is. Port is its file server's.
type DEAHello struct {
	ID      string  `json:"id"`
	IP      string  `json:"ip"`
	Port    int     `json:"port"`
	Version float64 `json:"version"`
}

// ParseDEAHello decodes a message of SubjectDEAStart or the answer to
// SubjectDEADiscover.
func ParseDEAHello(data []byte) (DEAHello, error) {
	h, err := parse[DEAHello](data, "a DEA's hello")
	if err == nil && h.ID == "" {
		err = errors.New("cannot use a DEA's hello without id")
	}
	return h, err
}

// DEAStatus is a DEA's answer to SubjectDEAStatus.
type DEAStatus struct {
	DEAHello
	MaxMemory      int     `json:"max_memory"`      // MB
	ReservedMemory int     `json:"reserved_memory"` // MB, the sum of the instances' limits
	UsedMemory     float64 `json:"used_memory"`     // MB
	NumClients     int     `json:"num_clients"`     // instances that start or run
	State          string  `json:"state,omitempty"` // StateShuttingDown, or absent
}

// ParseDEAStatus decodes an answer to SubjectDEAStatus.
func ParseDEAStatus(data []byte) (DEAStatus, error) {
	s, err := parse[DEAStatus](data, "a DEA's status")
	if err == nil && s.ID == "" {
		err = errors.New("cannot use a DEA's status without id")
	}
	return s, err
}

// DEADiscover asks who could run an instance.
type DEADiscover struct {
	Droplet     ID          `json:"droplet"`
	Limits      Limits      `json:"limits"`
	Name        string      `json:"name"`
	Runtime     string      `json:"runtime"`
	RuntimeInfo RuntimeInfo `json:"runtime_info"` // only its name in the older dialect
	Prod        bool        `json:"prod"`
	SHA         string      `json:"sha"` // the droplet's sha1
}

// ParseDEADiscover decodes a request of SubjectDEADiscover. RuntimeInfo is set,
// from the runtime's name if need be; Limits have their defaults.
func ParseDEADiscover(data []byte) (DEADiscover, error) {
	d, err := parse[DEADiscover](data, "a dea.discover")
	if err != nil {
		return d, err
	}
	if err := d.Limits.validate(); err != nil {
		return DEADiscover{}, fmt.Errorf("cannot use a dea.discover: %w", err)
	}
	d.Limits = d.Limits.WithDefaults()
	nameRuntime(&d.RuntimeInfo, &d.Runtime)
	return d, nil
}

// DEAStart is all that a DEA needs to run an instance.
type DEAStart struct {
	Droplet     ID          `json:"droplet"`
	Name        string      `json:"name"`
	Index       int         `json:"index"`
	Version     string      `json:"version"` // "<droplet's sha1>-<run count>"
	URIs        []string    `json:"uris"`    // host names; none: no port is assigned
	Runtime     string      `json:"runtime"`
	RuntimeInfo RuntimeInfo `json:"runtime_info"`
	Framework   string      `json:"framework"`
	Prod        bool        `json:"prod"`
	SHA1        string      `json:"sha1"` // of the droplet, 40 hexadecimal digits
	Executable
	Services []BoundService `json:"services"`
	Limits   Limits         `json:"limits"`
	Env      []string       `json:"env"`   // "K=V"
	Users    []string       `json:"users"` // e-mail addresses
	Debug    *string        `json:"debug"` // nil, "run" or "suspend"
	Console  *bool          `json:"console"`
	Trial
	CCPartition string `json:"cc_partition,omitempty"`
	// Health is nil for an app that says nothing of it.
	Health *HealthCheck `json:"health,omitempty"`
}

// Executable says where a droplet is.
type Executable struct {
	ExecutableFile string `json:"executableFile"` // on a folder that all share
	ExecutableURI  string `json:"executableUri"`  // over HTTP
	// SecureURI is the same over TLS with certificates of the deployment's CA, for DEAs
	// that have one; "": the controller has none.
	SecureURI string `json:"secureUri,omitempty"`
}

// Trial says how much an instance is trusted.
type Trial struct {
	// Flapping says that the instance crashed again and again: what is left of it
	// at the next crash is not kept.
	Flapping bool `json:"flapping,omitempty"`
	// MinHealthy is the time that the instance must run and pass its check before it
	// counts as running and is registered with the routers, seconds. Ours only: others
	// count it as running when it passes first, and do not say so in DEAFound.
	MinHealthy float64 `json:"min_healthy,omitempty"`
}

var sha1Hex = regexp.MustCompile(`^[0-9a-f]{40}$`)

// ParseDEAStart decodes and validates a message of SubjectDEAStartOf.
// RuntimeInfo and Runtime stand in for each other's name; Limits have their
// defaults.
func ParseDEAStart(data []byte) (DEAStart, error) {
	s, err := parse[DEAStart](data, "a start document")
	if err != nil {
		return s, err
	}
	nameRuntime(&s.RuntimeInfo, &s.Runtime)
	if err := s.Validate(); err != nil {
		return DEAStart{}, err
	}
	s.Limits = s.Limits.WithDefaults()
	return s, nil
}

// Validate says why DEAs would ignore the document.
func (s DEAStart) Validate() error {
	switch {
	case s.Droplet == "":
		return errors.New("cannot use a start document without droplet")
	case s.Index < 0:
		return fmt.Errorf("cannot use a start document of droplet %s: index %d is below 0", s.Droplet, s.Index)
	case !sha1Hex.MatchString(s.SHA1):
		return fmt.Errorf("cannot use a start document of droplet %s: sha1 %q is not 40 hexadecimal digits", s.Droplet, s.SHA1)
	case s.ExecutableFile == "" && s.ExecutableURI == "":
		return fmt.Errorf("cannot use a start document of droplet %s without executableFile and executableUri", s.Droplet)
	case s.MinHealthy < 0 || s.MinHealthy > maxMinHealthy:
		return fmt.Errorf("cannot use a start document of droplet %s: min_healthy %v is not within 0 and %d seconds", s.Droplet, s.MinHealthy, maxMinHealthy)
	}
	if err := s.Limits.validate(); err != nil {
		return fmt.Errorf("cannot use a start document of droplet %s: %w", s.Droplet, err)
	}
	return nil
}

// DEAUpdate describes what a DEA reads of a start document that comes as dea.update.
type DEAUpdate struct {
	Droplet ID       `json:"droplet"`
	URIs    []string `json:"uris"` // replace the instance's
}

// ParseDEAUpdate decodes a message of SubjectDEAUpdate.
func ParseDEAUpdate(data []byte) (DEAUpdate, error) {
	u, err := parse[DEAUpdate](data, "a dea.update")
	switch {
	case err != nil:
	case u.Droplet == "":
		err = errors.New("cannot use a dea.update without droplet")
	case u.URIs == nil:
		err = fmt.Errorf("cannot use a dea.update of droplet %s without uris", u.Droplet)
	}
	if err != nil {
		return DEAUpdate{}, err
	}
	return u, nil
}

// InstanceFilter chooses instances of an app. What is nil, or "", matches all;
// a list that is empty but not nil matches none, and is sent as one.
type InstanceFilter struct {
	Version   string   `json:"version,omitempty"`
	Instances []string `json:"instances,omitzero"`
	Indices   []int    `json:"indices,omitzero"`
	States    []string `json:"states,omitzero"`
}

// Matches says whether the filter chooses this instance.
func (f InstanceFilter) Matches(version, instance string, index int, state string) bool {
	return (f.Version == "" || f.Version == version) &&
		(f.Instances == nil || slices.Contains(f.Instances, instance)) &&
		(f.Indices == nil || slices.Contains(f.Indices, index)) &&
		(f.States == nil || slices.Contains(f.States, state))
}

// DEAStop stops the instances of an app that match.
type DEAStop struct {
	Droplet ID `json:"droplet"`
	InstanceFilter
}

// ParseDEAStop decodes a message of SubjectDEAStop.
func ParseDEAStop(data []byte) (DEAStop, error) {
	raw, err := parse[struct {
		DEAStop
		InstanceIDs []string `json:"instance_ids"`
	}](data, "a dea.stop")
	if err == nil && raw.Droplet == "" {
		err = errors.New("cannot use a dea.stop without droplet")
	}
	if err != nil {
		return DEAStop{}, err
	}
	if raw.Instances == nil {
		raw.Instances = raw.InstanceIDs
	}
	return raw.DEAStop, nil
}

// DEAFind asks for the instances of an app that match.
type DEAFind struct {
	Droplet ID `json:"droplet"`
	InstanceFilter
	IncludeStats bool `json:"include_stats,omitempty"`
}

// ParseDEAFind decodes a request of SubjectDEAFind. It takes instance_ids for
// instances: the original's cloud controller asked so, and was not understood.
func ParseDEAFind(data []byte) (DEAFind, error) {
	raw, err := parse[struct {
		DEAFind
		InstanceIDs []string `json:"instance_ids"`
	}](data, "a dea.find.droplet")
	if err == nil && raw.Droplet == "" {
		err = errors.New("cannot use a dea.find.droplet without droplet")
	}
	if err != nil {
		return DEAFind{}, err
	}
	if raw.Instances == nil {
		raw.Instances = raw.InstanceIDs
	}
	return raw.DEAFind, nil
}

// DEAFound is one instance, as the answer to DEAFind.
type DEAFound struct {
	DEA            string    `json:"dea"`
	Version        string    `json:"version"`
	Droplet        ID        `json:"droplet"`
	Instance       string    `json:"instance"` // 32 hexadecimal digits
	Index          int       `json:"index"`
	State          string    `json:"state"`
	StateTimestamp int64     `json:"state_timestamp"` // Unix seconds
	FileURI        string    `json:"file_uri"`        // the file server, "http://10.0.0.5:12345/droplets/"
	Credentials    [2]string `json:"credentials"`     // user and password of the file server
	// Staged is the instance's folder on the file server, nil before it is there.
	Staged      *string        `json:"staged"`
	DebugIP     *string        `json:"debug_ip"`
	DebugPort   *int           `json:"debug_port"`
	ConsoleIP   *string        `json:"console_ip"`
	ConsolePort *int           `json:"console_port"`
	Stats       *InstanceStats `json:"stats,omitempty"` // if asked for, and running
	// MinHealthy is the start document's, of a DEA that keeps to it.
	MinHealthy float64 `json:"min_healthy,omitempty"`
	// SessionURI is the place where cloud controllers ask for a session, with Credentials; "":
	// nowhere. Ours only.
	SessionURI string `json:"session_uri,omitempty"`
}

// ParseDEAFound decodes an answer to SubjectDEAFind.
func ParseDEAFound(data []byte) (DEAFound, error) {
	f, err := parse[DEAFound](data, "an answer to dea.find.droplet")
	if err == nil && (f.Droplet == "" || f.Instance == "") {
		err = errors.New("cannot use an answer to dea.find.droplet without droplet and instance")
	}
	return f, err
}

// InstanceStats describes what a running instance may use and uses; the answer to
// SubjectDropletStatus as well.
type InstanceStats struct {
	Name      string   `json:"name"`
	Host      string   `json:"host"`
	Port      *int     `json:"port"` // nil: it has none
	URIs      []string `json:"uris"`
	Uptime    float64  `json:"uptime"`     // seconds
	MemQuota  int64    `json:"mem_quota"`  // bytes
	DiskQuota int64    `json:"disk_quota"` // bytes
	FDsQuota  int      `json:"fds_quota"`
	Cores     int      `json:"cores,omitempty"` // of the machine; absent from droplet.status
	Usage     *Usage   `json:"usage,omitempty"` // absent before the first sample
}

// ParseInstanceStats decodes an answer to SubjectDropletStatus.
func ParseInstanceStats(data []byte) (InstanceStats, error) {
	return parse[InstanceStats](data, "a droplet's status")
}

// Usage is one sample of what an instance uses.
type Usage struct {
	Time string  `json:"time"` // see FormatTime
	CPU  float64 `json:"cpu"`  // percent of one core
	Mem  float64 `json:"mem"`  // KiB
	Disk int64   `json:"disk"` // bytes
}

// DEAAdvertise says what a DEA has room for.
type DEAAdvertise struct {
	ID              string   `json:"id"`
	AvailableMemory int      `json:"available_memory"` // MB
	Runtimes        []string `json:"runtimes"`
	Prod            *bool    `json:"prod"` // nil, as from the older dialect: apps of both kinds
	// Isolation is the level at which it keeps apps apart (jobs/confine); "": it does
	// not say.
	Isolation string `json:"isolation,omitempty"`
	// Zone is the place where the DEA is, "" for none; later versions of Cloud Foundry call it
	// placement_properties.zone. An app's instances are spread over zones.
	Zone string `json:"zone,omitempty"`
}

// ParseDEAAdvertise decodes a message of SubjectDEAAdvertise.
func ParseDEAAdvertise(data []byte) (DEAAdvertise, error) {
	a, err := parse[DEAAdvertise](data, "a dea.advertise")
	if err == nil && a.ID == "" {
		err = errors.New("cannot use a dea.advertise without id")
	}
	return a, err
}

// DEAHeartbeat lists the instances of a DEA, crashed ones too; or the one that
// has just begun to run.
type DEAHeartbeat struct {
	Droplets []InstanceHeartbeat `json:"droplets"`
	DEA      string              `json:"dea"`
	Prod     *bool               `json:"prod"`
}

// InstanceHeartbeat is one instance of a heartbeat. CCPartition is "" from the
// older dialect.
type InstanceHeartbeat struct {
	Droplet        ID     `json:"droplet"`
	Version        string `json:"version"`
	Instance       string `json:"instance"`
	Index          int    `json:"index"`
	State          string `json:"state"`
	StateTimestamp int64  `json:"state_timestamp"` // Unix seconds
	CCPartition    string `json:"cc_partition,omitempty"`
}

// ParseDEAHeartbeat decodes a message of SubjectDEAHeartbeat.
func ParseDEAHeartbeat(data []byte) (DEAHeartbeat, error) {
	h, err := parse[DEAHeartbeat](data, "a dea.heartbeat")
	if err != nil {
		return h, err
	}
	for _, i := range h.Droplets {
		if i.Droplet == "" || i.Instance == "" || i.Index < 0 {
			return DEAHeartbeat{}, fmt.Errorf("cannot use a dea.heartbeat of %q: an instance lacks droplet, instance or index", h.DEA)
		}
	}
	return h, nil
}

// DropletExited says that an instance has ended, or with ReasonEvacuation that
// it is about to. It is sent once per instance, except that.
type DropletExited struct {
	Droplet     ID     `json:"droplet"`
	Version     string `json:"version"`
	Instance    string `json:"instance"`
	Index       int    `json:"index"`
	Reason      string `json:"reason"`
	CCPartition string `json:"cc_partition,omitempty"`
	// CrashTimestamp is when it crashed, Unix seconds; 0 if it did not.
	CrashTimestamp int64 `json:"crash_timestamp,omitempty"`
	// ExitDescription says how it ended; as in later versions of Cloud Foundry.
	ExitDescription string `json:"exit_description,omitempty"`
}

// ParseDropletExited decodes a message of SubjectDropletExited.
func ParseDropletExited(data []byte) (DropletExited, error) {
	e, err := parse[DropletExited](data, "a droplet.exited")
	if err == nil && (e.Droplet == "" || e.Instance == "" || e.Index < 0) {
		err = errors.New("cannot use a droplet.exited without droplet, instance and index")
	}
	return e, err
}

// DropletUpdated says that an app's wanted state or number of instances changed.
type DropletUpdated struct {
	Droplet     ID     `json:"droplet"`
	CCPartition string `json:"cc_partition,omitempty"`
}

// ParseDropletUpdated decodes a message of SubjectDropletUpdated.
func ParseDropletUpdated(data []byte) (DropletUpdated, error) {
	u, err := parse[DropletUpdated](data, "a droplet.updated")
	if err == nil && u.Droplet == "" {
		err = errors.New("cannot use a droplet.updated without droplet")
	}
	return u, err
}

// DEAShutdown says that a DEA begins to leave: start nothing on it. The original
// only stopped advertising; the message is its successor's.
type DEAShutdown struct {
	ID           string     `json:"id"`
	IP           string     `json:"ip"`
	Version      float64    `json:"version"`
	AppIDToCount map[ID]int `json:"app_id_to_count"` // instances that leave, by app
}

// ParseDEAShutdown decodes a message of SubjectDEAShutdown.
func ParseDEAShutdown(data []byte) (DEAShutdown, error) {
	s, err := parse[DEAShutdown](data, "a dea.shutdown")
	if err == nil && s.ID == "" {
		err = errors.New("cannot use a dea.shutdown without id")
	}
	return s, err
}

// parse decodes one JSON object; an error gives the zero value.
func parse[T any](data []byte, what string) (T, error) {
	var v, zero T
	if err := json.Unmarshal(data, &v); err != nil {
		return zero, fmt.Errorf("cannot read %s: %w", what, err)
	}
	return v, nil
}

// maxMinHealthy bounds DEAStart.MinHealthy.
const maxMinHealthy = 3600

// maxLimit bounds each of the limits, so that no sum of them overflows: a
// petabyte in MB.
const maxLimit = 1 << 30

func (l Limits) validate() error {
	for name, v := range map[string]int{"mem": l.Mem, "disk": l.Disk, "fds": l.FDs} {
		if v < 0 || v > maxLimit {
			return fmt.Errorf("limit %s: %d is not within 0 and %d", name, v, maxLimit)
		}
	}
	return nil
}

// nameRuntime fills in the name that a dialect leaves out.
func nameRuntime(info *RuntimeInfo, name *string) {
	if info.Name == "" {
		info.Name = *name
	}
	if *name == "" {
		*name = info.Name
	}
}
