package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Subjects of the health manager. The three questions are requests; an app that
// the health manager does not know gets no answer.
const (
	SubjectHealthManagerStart   = "healthmanager.start"   // no payload; DEAs send their heartbeats at once
	SubjectHealthManagerStatus  = "healthmanager.status"  // HealthStatusRequest -> FlappingIndices or CrashedInstances
	SubjectHealthManagerHealth  = "healthmanager.health"  // HealthRequest -> one Health for each known app
	SubjectHealthManagerDroplet = "healthmanager.droplet" // HealthRequest -> one HealthRecord for each known app
	// SubjectHealthManagerPresence is ours: HealthManagerPresence, by which several
	// health managers agree on who acts.
	SubjectHealthManagerPresence = "healthmanager.presence"
)

// Subjects of the cloud controller that the health manager speaks to. The later
// dialect appends "." and the partition, see PartitionSubject; a cloud controller
// listens to both.
const (
	SubjectHealthManagerRequests = "cloudcontrollers.hm.requests"     // HealthManagerRequest
	SubjectBulkCredentials       = "cloudcontroller.bulk.credentials" // request without payload -> BulkCredentials
)

// QueueCloudController is the queue group in which cloud controllers take
// SubjectHealthManagerRequests: one of them acts.
const QueueCloudController = "cc"

// DefaultPartition is the cc_partition of health manager, cloud controller and
// DEA where the configuration names none.
const DefaultPartition = "default"

// PartitionSubject is a subject as the later dialect has it, with the cloud
// controller's partition.
func PartitionSubject(subject, partition string) string { return subject + "." + partition }

// States of an app as the user wants it, and of its package.
const (
	AppStarted     = "STARTED"
	AppStopped     = "STOPPED"
	PackageStaged  = "STAGED"
	PackagePending = "PENDING"
	PackageFailed  = "FAILED"
)

// What HealthStatusRequest asks for.
const (
	StatusFlapping = "FLAPPING"
	StatusCrashed  = "CRASHED"
)

// Operations of HealthManagerRequest.
const (
	OpStart    = "START"    // start Indices of Version
	OpStop     = "STOP"     // stop Instances
	OpSpinDown = "SPINDOWN" // stop the app
)

// HealthManagerRequest asks the cloud controllers to bring an app to what its
// user wants. A start is ignored if Version is not the app's any more, a stop if
// LastUpdated is not.
type HealthManagerRequest struct {
	Droplet     ID     `json:"droplet"`
	Op          string `json:"op"`
	LastUpdated int64  `json:"last_updated"` // Unix seconds
	// Version and Indices belong to OpStart.
	Version string `json:"version,omitempty"`
	Indices []int  `json:"indices,omitempty"`
	// Instances belong to OpStop; those of an app that is gone are stopped all.
	Instances []string `json:"instances,omitempty"`
	// Flapping says that the instances crash again and again, so that a DEA keeps
	// no folder of theirs.
	Flapping bool `json:"flapping,omitempty"`
}

// ParseHealthManagerRequest decodes and validates a message of
// SubjectHealthManagerRequests.
func ParseHealthManagerRequest(data []byte) (HealthManagerRequest, error) {
	var r HealthManagerRequest
	if err := json.Unmarshal(data, &r); err != nil {
		return HealthManagerRequest{}, fmt.Errorf("cannot read a health manager's request: %w", err)
	}
	switch {
	case r.Droplet == "":
		return HealthManagerRequest{}, errors.New("cannot use a health manager's request without droplet")
	case r.Op != OpStart && r.Op != OpStop && r.Op != OpSpinDown:
		return HealthManagerRequest{}, fmt.Errorf("cannot use a health manager's request for app %s: unknown op %q", r.Droplet, r.Op)
	case slices.ContainsFunc(r.Indices, func(i int) bool { return i < 0 }):
		return HealthManagerRequest{}, fmt.Errorf("cannot use a health manager's request for app %s: an index is negative", r.Droplet)
	}
	return r, nil
}

// HealthManagerPresence is published again and again by every health manager.
type HealthManagerPresence struct {
	ID string `json:"id"`
	// Since is when it began to hear the bus without a break, Unix milliseconds on
	// its own clock.
	Since   int64 `json:"since"`
	Leaving bool  `json:"leaving,omitempty"` // the last one
}

// ParseHealthManagerPresence decodes a message of SubjectHealthManagerPresence.
func ParseHealthManagerPresence(data []byte) (HealthManagerPresence, error) {
	p, err := parse[HealthManagerPresence](data, "a health manager's presence")
	if err == nil && p.ID == "" {
		err = errors.New("cannot use a health manager's presence without id")
	}
	return p, err
}

// HealthRequest asks for the health of several apps.
type HealthRequest struct {
	Droplets []HealthDroplet `json:"droplets"`
}

// HealthDroplet names an app and, for SubjectHealthManagerHealth, the version
// whose instances count.
type HealthDroplet struct {
	Droplet ID     `json:"droplet"`
	Version string `json:"version,omitempty"`
}

// ParseHealthRequest decodes a message of SubjectHealthManagerHealth or
// SubjectHealthManagerDroplet.
func ParseHealthRequest(data []byte) (HealthRequest, error) {
	var r HealthRequest
	if err := json.Unmarshal(data, &r); err != nil {
		return HealthRequest{}, fmt.Errorf("cannot read a request for health: %w", err)
	}
	return r, nil
}

// Health says how many instances of an app's version run. Droplet is sent as a
// string: the original's cloud controller looks it up as one.
type Health struct {
	Droplet ID     `json:"droplet"`
	Version string `json:"version"`
	Healthy int    `json:"healthy"`
}

// ParseHealth decodes an answer on SubjectHealthManagerHealth.
func ParseHealth(data []byte) (Health, error) {
	var h Health
	if err := json.Unmarshal(data, &h); err != nil {
		return Health{}, fmt.Errorf("cannot read an app's health: %w", err)
	}
	return h, nil
}

// HealthStatusRequest asks for the indices of a version that are flapping, or
// for the instances of an app that have crashed (State says which).
type HealthStatusRequest struct {
	Droplet ID     `json:"droplet"`
	Version string `json:"version,omitempty"` // StatusFlapping only
	State   string `json:"state"`             // StatusFlapping or StatusCrashed
}

// ParseHealthStatusRequest decodes a message of SubjectHealthManagerStatus.
func ParseHealthStatusRequest(data []byte) (HealthStatusRequest, error) {
	var r HealthStatusRequest
	if err := json.Unmarshal(data, &r); err != nil {
		return HealthStatusRequest{}, fmt.Errorf("cannot read a request for an app's status: %w", err)
	}
	if r.State != StatusFlapping && r.State != StatusCrashed {
		return HealthStatusRequest{}, fmt.Errorf("cannot answer a request for the status of app %s: unknown state %q", r.Droplet, r.State)
	}
	return r, nil
}

// FlappingIndices answers a HealthStatusRequest for StatusFlapping.
type FlappingIndices struct {
	Indices []FlappingIndex `json:"indices"`
}

// FlappingIndex is an index whose instances crash again and again.
type FlappingIndex struct {
	Index int   `json:"index"`
	Since int64 `json:"since"` // Unix seconds
}

// ParseFlappingIndices decodes the answer for StatusFlapping.
func ParseFlappingIndices(data []byte) (FlappingIndices, error) {
	var f FlappingIndices
	if err := json.Unmarshal(data, &f); err != nil {
		return FlappingIndices{}, fmt.Errorf("cannot read an app's flapping indices: %w", err)
	}
	return f, nil
}

// CrashedInstances answers a HealthStatusRequest for StatusCrashed.
type CrashedInstances struct {
	Instances []CrashedInstance `json:"instances"`
}

// CrashedInstance is an instance that ended by itself.
type CrashedInstance struct {
	Instance string `json:"instance"`
	Since    int64  `json:"since"` // when it crashed, Unix seconds
	// Version is the app's that it was of; "": whoever says it does not tell.
	Version string `json:"version,omitempty"`
}

// ParseCrashedInstances decodes the answer for StatusCrashed.
func ParseCrashedInstances(data []byte) (CrashedInstances, error) {
	var c CrashedInstances
	if err := json.Unmarshal(data, &c); err != nil {
		return CrashedInstances{}, fmt.Errorf("cannot read an app's crashed instances: %w", err)
	}
	return c, nil
}

// HealthRecord is all that a health manager knows of an app; for people and
// tools. Times are Unix seconds, 0 for never.
type HealthRecord struct {
	Droplet     ID     `json:"id"`
	State       string `json:"state"` // AppStarted, AppStopped; "" while it is not known from the cloud controller
	LiveVersion string `json:"live_version"`
	Instances   int    `json:"num_instances"` // wanted
	Framework   string `json:"framework,omitempty"`
	Runtime     string `json:"runtime,omitempty"`
	LastUpdated int64  `json:"last_updated"`
	// Indices has every index of the live version that was heard of.
	Indices []HealthIndex     `json:"indices"`
	Extra   []HealthInstance  `json:"extra_instances"`
	Crashes []CrashedInstance `json:"crashes"`
}

// HealthIndex is one index of an app's live version.
type HealthIndex struct {
	Index         int    `json:"index"`
	State         string `json:"state"` // STARTING, RUNNING, DOWN, FLAPPING
	Instance      string `json:"instance,omitempty"`
	LastHeartbeat int64  `json:"last_heartbeat"`
	Crashes       int    `json:"crash_count"`
	RestartAt     int64  `json:"restart_at,omitempty"` // a restart is put off until then
}

// HealthInstance is an instance that should not be there.
type HealthInstance struct {
	Instance string `json:"instance"`
	Version  string `json:"version"`
	Index    int    `json:"index"`
	Since    int64  `json:"since"`
}

// BulkCredentials are user and password of the cloud controller's bulk API.
type BulkCredentials struct {
	User     string `json:"user"`
	Password string `json:"password"`
	// Address is the host:port of the controller that answers; ours. The original's
	// is found by DNS.
	Address string `json:"address,omitempty"`
}

// ParseBulkCredentials decodes the answer on SubjectBulkCredentials.
func ParseBulkCredentials(data []byte) (BulkCredentials, error) {
	var c BulkCredentials
	if err := json.Unmarshal(data, &c); err != nil {
		return BulkCredentials{}, fmt.Errorf("cannot read the credentials of the bulk API: %w", err)
	}
	if c.User == "" || c.Password == "" {
		return BulkCredentials{}, errors.New("cannot use the credentials of the bulk API: user or password is absent")
	}
	return c, nil
}

// BulkApps is one batch of GET /bulk/apps. Results are keyed by the app's id; no
// results are the end. BulkToken is passed back for the next batch as it is.
type BulkApps struct {
	Results   map[ID]BulkApp  `json:"results"`
	BulkToken json.RawMessage `json:"bulk_token"`
}

// BulkApp is an app as its user wants it. Version is
// "<hash of the droplet>-<run count>".
type BulkApp struct {
	ID           int64    `json:"id"`
	Name         string   `json:"name"`
	Instances    int      `json:"instances"`
	State        string   `json:"state"` // AppStarted, AppStopped
	Framework    string   `json:"framework"`
	Runtime      string   `json:"runtime"`
	Memory       int      `json:"memory"`        // MB, an instance
	PackageState string   `json:"package_state"` // PackageStaged, ...
	UpdatedAt    BulkTime `json:"updated_at"`
	Version      string   `json:"version"`
	// Updating is the version that an update under way brings in, "": none is. Its
	// instances are as welcome as Version's, and the cloud controller starts and stops
	// them. Ours only.
	Updating string `json:"updating,omitempty"`
}

// ParseBulkApps decodes the answer of GET /bulk/apps.
func ParseBulkApps(data []byte) (BulkApps, error) {
	var b BulkApps
	if err := json.Unmarshal(data, &b); err != nil {
		return BulkApps{}, fmt.Errorf("cannot read the apps of the bulk API: %w", err)
	}
	for id, app := range b.Results {
		if id == "" || app.Instances < 0 {
			return BulkApps{}, fmt.Errorf("cannot use the apps of the bulk API: app %q wants %d instances", id, app.Instances)
		}
	}
	return b, nil
}

// BulkCounts is the answer of GET /bulk/counts?model=user (or app).
type BulkCounts struct {
	Counts map[string]int `json:"counts"`
}

// ParseBulkCounts decodes the answer of GET /bulk/counts.
func ParseBulkCounts(data []byte) (BulkCounts, error) {
	var c BulkCounts
	if err := json.Unmarshal(data, &c); err != nil {
		return BulkCounts{}, fmt.Errorf("cannot read the counts of the bulk API: %w", err)
	}
	return c, nil
}

// BulkTime is a time with a precision of a second, which the bulk API writes as
// "2012-08-01T10:00:00Z".
type BulkTime struct{ time.Time }

// bulkTimes are the forms in which Rails wrote times to JSON, by version and
// setting. A time without a zone is UTC, as the original's database had it.
var bulkTimes = []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02 15:04:05 -0700", "2006-01-02 15:04:05 MST", "2006/01/02 15:04:05 -0700"}

// MarshalJSON writes the time in UTC.
func (t BulkTime) MarshalJSON() ([]byte, error) {
	return json.Marshal(t.UTC().Format(time.RFC3339))
}

// UnmarshalJSON reads any of the forms that Rails writes, Unix seconds, or null
// (the zero time). Fractions of a second are dropped.
func (t *BulkTime) UnmarshalJSON(b []byte) error {
	text, err := scalar(b)
	if err != nil {
		return fmt.Errorf("cannot read a time: %w", err)
	}
	*t = BulkTime{}
	if text == "" {
		return nil
	}
	if !strings.HasPrefix(string(b), `"`) {
		var seconds int64
		if err := json.Unmarshal(b, &seconds); err != nil {
			return fmt.Errorf("cannot read a time: %w", err)
		}
		return t.set(time.Unix(seconds, 0))
	}
	for _, form := range bulkTimes {
		if at, err := time.Parse(form, text); err == nil {
			return t.set(at)
		}
	}
	return fmt.Errorf("cannot read the time %q", text)
}

// set refuses what could not be written in the same form again.
func (t *BulkTime) set(at time.Time) error {
	at = at.UTC().Truncate(time.Second)
	if year := at.Year(); year < 0 || year > 9999 {
		return fmt.Errorf("cannot use a time in the year %d", year)
	}
	*t = BulkTime{at}
	return nil
}
