package lifecycle

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/clusterworks/deploy/jobs/wire"
)

const (
	// atOnce is the number of jobs of a node that work side by side.
	atOnce = 2
	// spare is the room that a job leaves free on a disk, in bytes.
	spare = 64 << 20
	// scheduleInterval is the time between two looks at what the schedule asks for.
	scheduleInterval = time.Minute
	// readyInterval is the time between two looks whether the service is ready.
	readyInterval = 200 * time.Millisecond
)

// Config describes what the operator has chosen.
type Config struct {
	Folder    string        // of the snapshots, an absolute path; "": there are none
	Max       int           // snapshots of an instance that its owner may have, the schedule's apart
	MaxBytes  int64         // of a snapshot
	TimeLimit time.Duration // of a job, each time that it is begun
	Every     time.Duration // between two scheduled snapshots of an instance; 0: none are scheduled
	Keep      int           // scheduled snapshots that are kept
}

// Instances are the node's, as far as snapshots are about them.
type Instances struct {
	// Ready says why the service cannot work, or nil.
	Ready func() error
	// Names returns those that may be worked with now.
	Names func() []string
	// Key returns what an instance's snapshots are sealed with, and the version of its
	// server; false if there is no such instance.
	Key func(instance string) (key []byte, version string, there bool)
	// Size returns an estimate of the bytes that are in an instance.
	Size func(ctx context.Context, instance string) (int64, error)
	// Dump writes what is in an instance.
	Dump func(ctx context.Context, instance string, to io.Writer) error
	// Rollback replaces all that is in an instance, while its users are kept out, and
	// lets them in again after loaded. from can be read again from its beginning, and is
	// nil if all is loaded already. source is how many bytes the instance had.
	Rollback func(ctx context.Context, instance string, source int64, from io.ReadSeeker, loaded func() error) error
	// Serialize writes what Dump wrote as a file that Import reads; nil: there are no exports.
	Serialize func(ctx context.Context, instance string, from io.Reader, to io.Writer) error
	// Import is Rollback to a file that anybody may have written.
	Import func(ctx context.Context, instance string, source int64, from io.ReadSeeker, loaded func() error) error
}

// Keeper makes, keeps and removes the snapshots of a node's instances.
type Keeper struct {
	config  Config
	off     error // why there are no snapshots; nil: there are
	service string
	of      Instances
	log     *slog.Logger
	vault   vault
	desk    desk
	uploads uploads
	wake    chan struct{} // there may be a job to begin

	mu    sync.Mutex // guards the rest
	queue *queue
	work  map[string]*work   // by the instance
	past  map[string]history // of instances that the schedule has looked at
}

// work is a job that is being done.
type work struct {
	stop        context.CancelCauseFunc
	ended       chan struct{}
	done, total atomic.Int64
}

var (
	errNoJob     = wire.Failure(wire.ServiceNotFound, "there is no such job")
	errLate      = wire.Failure(wire.ServiceNodeTimeout, "the job took longer than it may, and was ended")
	errForgotten = wire.Failure(wire.ServiceNotFound, "the service was deleted")
	errNoSpace   = wire.Failure(wire.ServiceUnavailable, "the node's disk has no room for it; ask its operator, or delete snapshots")
)

// Open reads what there is. records is a folder of the node's own.
func Open(c Config, service, records string, of Instances, log *slog.Logger) (*Keeper, error) {
	k := &Keeper{
		config: c, service: service, of: of, log: log, vault: vault{folder: c.Folder}, desk: desk{records}, uploads: uploads{open: map[string]*upload{}}, wake: make(chan struct{}, 1),
		queue: newQueue(nil), work: map[string]*work{}, past: map[string]history{},
	}
	if c.Folder == "" {
		k.off = wire.Failure(wire.ServiceExtension, "this node keeps no snapshots: its operator has given no folder for them (snapshots_dir)")
		return k, nil
	}
	if err := os.MkdirAll(c.Folder, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the folder of the snapshots: %w", err)
	}
	jobs, notes, err := k.desk.read()
	if err != nil {
		return nil, err
	}
	for _, note := range notes {
		log.Error("cannot read the record of a job; whoever asked for it must ask again", "note", note)
	}
	k.queue = newQueue(jobs)
	for _, j := range k.queue.recover(time.Now()) {
		log.Warn("a job was cut off when the node died", "job", j.ID, "kind", j.Kind, "instance", j.Instance, "attempts", j.Attempts, "status", j.Status)
		if err := k.desk.write(j); err != nil {
			return nil, err
		}
	}
	return k, k.forgetUploads()
}

// TurnOff says why the service has no snapshots, before Run.
func (k *Keeper) TurnOff(why string) { k.off = wire.Failure(wire.ServiceExtension, "%s", why) }

// Run works at jobs, and makes snapshots as the schedule says, until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	if k.off != nil {
		<-ctx.Done()
		return nil
	}
	var jobs sync.WaitGroup
	defer jobs.Wait()
	defer k.uploads.dropAll()
	var looked time.Time
	for {
		wait := readyInterval
		if k.of.Ready() == nil {
			if now := time.Now(); now.Sub(looked) >= scheduleInterval || now.Before(looked) {
				looked = now
				k.forgetOld()
				k.forgetFiles(now)
				k.schedule(now)
			}
			k.begin(ctx, &jobs)
			wait = scheduleInterval
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-k.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

func (k *Keeper) nudge() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// begin begins the jobs that can begin now.
func (k *Keeper) begin(ctx context.Context, jobs *sync.WaitGroup) {
	for {
		k.mu.Lock()
		j, ok := k.queue.next(atOnce)
		if !ok {
			k.mu.Unlock()
			return
		}
		working, stop := context.WithCancelCause(ctx)
		w := &work{stop: stop, ended: make(chan struct{})}
		k.work[j.Instance] = w
		k.mu.Unlock()
		jobs.Go(func() {
			defer k.nudge()
			defer close(w.ended)
			defer stop(nil)
			k.do(ctx, working, j, w)
		})
	}
}

// do does a job and records how it has ended. node ends with the node, working also when
// the job is to end.
func (k *Keeper) do(node, working context.Context, j Job, w *work) {
	log := k.log.With("job", j.ID, "kind", j.Kind, "instance", j.Instance, "snapshot", j.Snapshot)
	began := time.Now()
	ctx, cancel := context.WithTimeoutCause(working, k.config.TimeLimit, errLate)
	err := k.desk.write(j)
	var made *wire.Snapshot
	if err == nil {
		made, err = k.perform(ctx, j, w)
	}
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = errors.Join(err, cause)
	}
	cancel()

	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.work, j.Instance)
	if err != nil && node.Err() != nil {
		if waiting, ok := k.queue.requeue(j.ID); ok { // the next life of the node goes on with it
			log.Info("a job waits for the node's next start", "error", k.desk.write(waiting))
		}
		return
	}
	var failure *wire.ServiceFailure
	if err != nil {
		failure = k.told(err)
		log.Error("a job failed", "error", err, "took", time.Since(began))
	} else {
		log.Info("job done", "took", time.Since(began), "bytes", w.done.Load())
	}
	if ended, ok := k.queue.end(j.ID, time.Now(), made, failure); ok {
		if err := k.desk.write(ended); err != nil {
			log.Error("cannot record how a job has ended; it is done again at the node's next start", "error", err)
		} else if j.Kind == Import {
			if err := k.uploaded().forget(j.Instance); err != nil {
				log.Error("cannot remove a file that was imported; it is removed before the next one", "error", err)
			}
		}
	}
}

// told returns what a user may know of an error.
func (k *Keeper) told(err error) *wire.ServiceFailure {
	var failure *wire.ServiceFailure
	switch {
	case errors.Is(err, errTooLarge):
		return wire.Failure(wire.ServiceUnavailable, "it would be larger than the %d MiB that a snapshot may have", k.config.MaxBytes>>20)
	case errors.As(err, &failure):
		return failure
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return errNoSpace
	}
	return wire.Failure(wire.ServiceInternal, "Internal Error")
}

func (k *Keeper) perform(ctx context.Context, j Job, w *work) (*wire.Snapshot, error) {
	key, version, there := k.of.Key(j.Instance)
	if !there {
		return nil, errForgotten
	}
	if err := k.vault.tidy(j.Instance); err != nil {
		return nil, err
	}
	switch j.Kind {
	case Create:
		l, err := k.create(ctx, j, key, version, w)
		return &l.Snapshot, err
	case Rollback:
		return nil, k.rollback(ctx, j, key, w)
	case Delete:
		return nil, errors.Join(k.exports().remove(j.Instance, j.Snapshot), k.vault.remove(j.Instance, j.Snapshot))
	case Export:
		return nil, k.export(ctx, j, key, w)
	case Import:
		return nil, k.importFile(ctx, j, key, w)
	}
	return nil, fmt.Errorf("nobody knows jobs of the kind %q", j.Kind)
}

func (k *Keeper) create(ctx context.Context, j Job, key []byte, version string, w *work) (label, error) {
	if l, err := k.vault.label(j.Instance, j.Snapshot, key); err == nil {
		return l, nil // the node died when all but the record was there
	}
	list, _, err := k.vault.list(j.Instance, key)
	if err != nil {
		return label{}, err
	}
	source, err := k.of.Size(ctx, j.Instance)
	if err != nil {
		return label{}, err
	}
	room, err := free(k.config.Folder)
	if err != nil {
		return label{}, err
	}
	if need := min(source, k.config.MaxBytes); room-need < spare {
		return label{}, errors.Join(errNoSpace, fmt.Errorf("%d bytes are free, and up to %d are needed besides %d in reserve", room, need, int64(spare)))
	}
	l := label{
		Snapshot: wire.Snapshot{ID: j.Snapshot, Name: j.Name, Date: time.Now().UTC(), By: j.By},
		Number:   lastNumber(list) + 1, Instance: j.Instance, Service: k.service, Version: version, Source: source,
	}
	w.total.Store(0) // how much it will be is not known: dumps are compressed
	l, err = k.vault.write(ctx, l, key, k.config.MaxBytes, w.moved, func(ctx context.Context, to io.Writer) error { return k.of.Dump(ctx, j.Instance, to) })
	if err != nil || j.By != wire.SnapshotBySchedule {
		return l, err
	}
	for _, old := range expired(append(list, l), k.config.Keep) {
		if err := k.vault.remove(old.Instance, old.ID); err != nil {
			k.log.Error("cannot remove a scheduled snapshot that is kept no longer", "instance", old.Instance, "snapshot", old.ID, "error", err)
		}
	}
	return l, nil
}

func (w *work) moved(n int) { w.done.Add(int64(n)) }

func lastNumber(list []label) int64 {
	if len(list) == 0 {
		return 0
	}
	return list[len(list)-1].Number
}

// loaded returns what records that all of a job is in its instance.
func (k *Keeper) loaded(j Job) func() error {
	return func() error {
		k.mu.Lock()
		j.Loaded = true
		k.queue.jobs[j.ID] = j
		k.mu.Unlock()
		return k.desk.write(j)
	}
}

func (k *Keeper) rollback(ctx context.Context, j Job, key []byte, w *work) error {
	if j.Loaded {
		return k.of.Rollback(ctx, j.Instance, 0, nil, func() error { return nil })
	}
	l, err := k.vault.label(j.Instance, j.Snapshot, key)
	if err != nil {
		return asTampered(err)
	}
	w.total.Store(2 * l.Size) // it is read twice
	in, err := k.vault.open(ctx, l, w.moved)
	if err != nil {
		return err
	}
	defer in.Close()
	return k.of.Rollback(ctx, j.Instance, l.Source, newReader(ctx, in, l, w.moved), k.loaded(j))
}

// asTampered tells users of a label that was changed what they are told of a file.
func asTampered(err error) error {
	var failure *wire.ServiceFailure
	if errors.As(err, &failure) {
		return err
	}
	return errors.Join(errTampered, err)
}

// forgetOld removes the records of jobs that nobody will ask for any more.
func (k *Keeper) forgetOld() {
	k.mu.Lock()
	defer k.mu.Unlock()
	gone := k.queue.surplus(func(instance string) bool { _, _, there := k.of.Key(instance); return there })
	for _, j := range gone {
		if err := k.desk.remove(j.ID); err != nil {
			k.log.Error("cannot forget a job", "job", j.ID, "error", err)
		}
	}
}

// schedule asks for the snapshots that are due.
func (k *Keeper) schedule(now time.Time) {
	if k.config.Every == 0 {
		return
	}
	for _, instance := range k.of.Names() {
		if err := k.scheduleOne(instance, now); err != nil {
			k.log.Error("cannot ask for a scheduled snapshot", "instance", instance, "error", err)
		}
	}
}

// scheduleOne asks for a snapshot of one instance if it is due. Labels are read at the
// first look, and when one is due.
func (k *Keeper) scheduleOne(instance string, now time.Time) error {
	k.mu.Lock()
	h, known := k.past[instance]
	_, busy := k.queue.active(instance)
	k.mu.Unlock()
	if busy || known && !due(now, k.config.Every, h) {
		return nil
	}
	key, _, there := k.of.Key(instance)
	if !there {
		return nil
	}
	list, problems, err := k.vault.list(instance, key)
	if err != nil {
		return err
	}
	if len(problems) > 0 {
		k.log.Error("cannot read all snapshots of an instance", "instance", instance, "error", errors.Join(problems...))
	}
	h.made = time.Time{}
	for _, l := range list {
		if l.By == wire.SnapshotBySchedule {
			h.made = l.Date
		}
	}
	isDue := due(now, k.config.Every, h)
	if isDue {
		h.tried = now
	}
	k.mu.Lock()
	k.past[instance] = h
	k.mu.Unlock()
	if !isDue {
		return nil
	}
	_, err = k.submit(Job{Instance: instance, Kind: Create, Snapshot: newID(lastNumber(list) + 1), Name: "scheduled", By: wire.SnapshotBySchedule})
	return err
}

// submit records a job; it begins when others have ended.
func (k *Keeper) submit(j Job) (wire.ServiceJob, error) {
	var b [12]byte
	_, _ = rand.Read(b[:]) // never fails
	j.ID, j.Asked = "j"+hex.EncodeToString(b[:]), time.Now().UTC()
	k.mu.Lock()
	defer k.mu.Unlock()
	j, err := k.queue.submit(j)
	if err != nil {
		return wire.ServiceJob{}, err
	}
	if err := k.desk.write(j); err != nil {
		delete(k.queue.jobs, j.ID)
		return wire.ServiceJob{}, errors.Join(err, k.desk.remove(j.ID))
	}
	k.nudge()
	return k.view(j), nil
}

// view returns what users see of a job.
func (k *Keeper) view(j Job) wire.ServiceJob {
	v := wire.ServiceJob{
		ID: j.ID, Kind: j.Kind, Status: j.Status, SnapshotID: j.Snapshot, StartTime: j.Asked, Attempts: j.Attempts, Error: j.Failure, Snapshot: j.Made,
	}
	if j.over() {
		v.CompletedAt = &j.Ended
	}
	if w, is := k.work[j.Instance]; is && j.Status == wire.JobWorking {
		v.Done, v.Total = w.done.Load(), w.total.Load()
	}
	return v
}

// known returns what seals the snapshots of an instance that is there.
func (k *Keeper) known(instance string) ([]byte, error) {
	if k.off != nil {
		return nil, k.off
	}
	key, _, there := k.of.Key(instance)
	if !there {
		return nil, wire.Failure(wire.ServiceNotFound, "there is no such instance on this node")
	}
	return key, nil
}

// List returns an instance's snapshots, the oldest first.
func (k *Keeper) List(instance string) ([]wire.Snapshot, error) {
	key, err := k.known(instance)
	if err != nil {
		return nil, err
	}
	list, problems, err := k.vault.list(instance, key)
	if err != nil {
		return nil, err
	}
	if len(problems) > 0 {
		k.log.Error("snapshots are not listed", "instance", instance, "error", errors.Join(problems...))
	}
	snapshots := []wire.Snapshot{}
	for _, l := range list {
		snapshots = append(snapshots, l.Snapshot)
	}
	return snapshots, nil
}

// Create asks for a snapshot on behalf of an instance's owner.
func (k *Keeper) Create(instance, name string) (wire.ServiceJob, error) {
	key, err := k.known(instance)
	if err != nil {
		return wire.ServiceJob{}, err
	}
	list, _, err := k.vault.list(instance, key)
	if err != nil {
		return wire.ServiceJob{}, err
	}
	theirs := len(list)
	for _, l := range list {
		if l.By == wire.SnapshotBySchedule {
			theirs--
		}
	}
	if theirs >= k.config.Max {
		return wire.ServiceJob{}, wire.Failure(wire.ServiceUnavailable, "there are %d snapshots, which is the most; delete one first", theirs)
	}
	id := newID(lastNumber(list) + 1)
	if name == "" {
		name = "snapshot " + id
	}
	return k.submit(Job{Instance: instance, Kind: Create, Snapshot: id, Name: name, By: wire.SnapshotByUser})
}

// Rollback asks that all that is in an instance be replaced by what is in a snapshot.
func (k *Keeper) Rollback(instance, id string) (wire.ServiceJob, error) {
	return k.about(Rollback, instance, id)
}

// Delete asks that a snapshot be removed.
func (k *Keeper) Delete(instance, id string) (wire.ServiceJob, error) {
	return k.about(Delete, instance, id)
}

func (k *Keeper) about(kind, instance, id string) (wire.ServiceJob, error) {
	key, err := k.known(instance)
	if err != nil {
		return wire.ServiceJob{}, err
	}
	// One that was changed can be deleted, and is refused by the rollback's job.
	if _, err := k.vault.label(instance, id, key); errors.Is(err, errNoSnapshot) {
		return wire.ServiceJob{}, errNoSnapshot
	}
	return k.submit(Job{Instance: instance, Kind: kind, Snapshot: id, By: wire.SnapshotByUser})
}

// Job returns a job of an instance.
func (k *Keeper) Job(instance, id string) (wire.ServiceJob, error) {
	if _, err := k.known(instance); err != nil {
		return wire.ServiceJob{}, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	j, there := k.queue.jobs[id]
	if !there || j.Instance != instance {
		return wire.ServiceJob{}, errNoJob
	}
	return k.view(j), nil
}

// RollingBack reports whether an instance has a rollback or an import that has not ended:
// its users are kept out then, and nothing else may be done with it.
func (k *Keeper) RollingBack(instance string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	j, is := k.queue.active(instance)
	return is && (j.Kind == Rollback || j.Kind == Import)
}

// Forget ends an instance's job and removes its jobs and snapshots: it is being deleted.
func (k *Keeper) Forget(ctx context.Context, instance string) error {
	if k.off != nil {
		return nil
	}
	k.mu.Lock()
	w, working := k.work[instance]
	k.mu.Unlock()
	if working {
		w.stop(errForgotten)
		select {
		case <-w.ended:
		case <-ctx.Done():
			return fmt.Errorf("a job of the instance does not end: %w", context.Cause(ctx))
		}
	}
	k.mu.Lock()
	for _, j := range k.queue.surplus(func(other string) bool { return other != instance }) {
		if err := k.desk.remove(j.ID); err != nil {
			k.log.Error("cannot forget a job", "job", j.ID, "error", err)
		}
	}
	delete(k.past, instance)
	k.mu.Unlock()
	k.uploads.drop(instance)
	return k.vault.forget(instance)
}

// Counts returns figures for varz.
func (k *Keeper) Counts() map[string]any {
	k.mu.Lock()
	defer k.mu.Unlock()
	counts := map[string]int{wire.JobQueued: 0, wire.JobWorking: 0, wire.JobCompleted: 0, wire.JobFailed: 0}
	for _, j := range k.queue.jobs {
		counts[j.Status]++
	}
	return map[string]any{"jobs": counts, "working": slices.Sorted(maps.Keys(k.work))}
}
