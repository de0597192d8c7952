package wire

import (
	"errors"
	"regexp"
	"time"
)

// Operations of a node that are about snapshots of an instance. Those that take long
// are jobs: the answer is the job, which the node works at by itself.
const (
	ServiceListSnapshots    = "list_snapshots"
	ServiceCreateSnapshot   = "create_snapshot"
	ServiceRollbackSnapshot = "rollback_snapshot"
	ServiceDeleteSnapshot   = "delete_snapshot"
	ServiceJobDetails       = "job_details"
)

// SnapshotRequest asks for one of these operations. Which fields it needs depends on
// the operation; those that are there are checked in any case.
type SnapshotRequest struct {
	InstanceID string `json:"instance_id"`
	SnapshotID string `json:"snapshot_id,omitempty"`
	JobID      string `json:"job_id,omitempty"`
	Name       string `json:"name,omitempty"` // of a new snapshot, for people
}

// Snapshot describes one.
type Snapshot struct {
	ID   string    `json:"snapshot_id"`
	Name string    `json:"name"`
	Date time.Time `json:"date"`
	Size int64     `json:"size"`   // bytes of its file
	By   string    `json:"reason"` // SnapshotByUser or SnapshotBySchedule
}

// Who has asked for a snapshot.
const (
	SnapshotByUser     = "user"
	SnapshotBySchedule = "schedule"
)

// States of a ServiceJob. The last two are final.
const (
	JobQueued    = "queued"
	JobWorking   = "working"
	JobCompleted = "completed"
	JobFailed    = "failed"
)

// ServiceJob describes what users see of a job.
type ServiceJob struct {
	ID          string          `json:"job_id"`
	Kind        string          `json:"description"` // "snapshot", "rollback", "delete", "export" or "import"
	Status      string          `json:"status"`
	SnapshotID  string          `json:"snapshot_id,omitempty"`
	StartTime   time.Time       `json:"start_time"`
	CompletedAt *time.Time      `json:"complete_time,omitempty"`
	Done        int64           `json:"done"`  // bytes read or written so far
	Total       int64           `json:"total"` // bytes in all; 0: not known
	Attempts    int             `json:"attempts"`
	Error       *ServiceMessage `json:"error,omitempty"`
	Snapshot    *Snapshot       `json:"result,omitempty"`
}

// SnapshotAnswer ends an operation of a node that is about snapshots.
type SnapshotAnswer struct {
	Success   bool            `json:"success"`
	Error     *ServiceFailure `json:"error,omitempty"`
	Job       *ServiceJob     `json:"job,omitempty"`
	Snapshots []Snapshot      `json:"snapshots,omitempty"`
}

var snapshotName = regexp.MustCompile(`^[\pL\pN][\pL\pN ._:-]{0,63}$`)

// ValidSnapshotName reports whether people can call a snapshot so.
func ValidSnapshotName(name string) bool { return snapshotName.MatchString(name) }

// ParseSnapshotRequest decodes a request that is about snapshots.
func ParseSnapshotRequest(data []byte) (SnapshotRequest, error) {
	return parseService[SnapshotRequest](data, "a request of snapshots")
}

func (r SnapshotRequest) check() error {
	switch {
	case !ValidServiceInstance(r.InstanceID):
		return errors.New("its instance_id cannot be an instance's")
	case r.SnapshotID != "" && !ValidServiceInstance(r.SnapshotID):
		return errors.New("its snapshot_id cannot be a snapshot's")
	case r.JobID != "" && !ValidServiceInstance(r.JobID):
		return errors.New("its job_id cannot be a job's")
	case r.Name != "" && !ValidSnapshotName(r.Name):
		return errors.New("its name cannot be a snapshot's")
	}
	return nil
}

// ParseSnapshotAnswer decodes a node's answer. A failure is read without an error.
func ParseSnapshotAnswer(data []byte) (SnapshotAnswer, error) {
	return parseService[SnapshotAnswer](data, "a node's answer about snapshots")
}

func (a SnapshotAnswer) check() error {
	if a.Success || a.Error != nil {
		return nil
	}
	return errors.New("it is neither a success nor an error")
}
