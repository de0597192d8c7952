package stager

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/clusterworks/deploy/jobs/component"
	"github.com/clusterworks/deploy/jobs/confine/warden"
	"github.com/clusterworks/deploy/jobs/runtimes"
	"github.com/clusterworks/deploy/jobs/wire"
)

// Stager is a running stager.
type Stager struct {
	config   Config
	base     *component.Component
	runtimes runtimes.Finder
	client   *http.Client
	folder   *workFolder
	machine  warden.Machine

	// places has a number for each task that may run now.
	places chan int
	turns  turns // of owners
	tasks  sync.WaitGroup
	// working is the tasks' context; cut ends it.
	working context.Context
	cut     context.CancelCauseFunc

	mu            sync.Mutex
	subscriptions []*nats.Subscription
	leaving       bool
	ended         bool              // takes nothing any more
	usable        map[string]string // runtimes of this machine and what they say of themselves
	waiting       int
	running       int
	staged        int
	failed        int
}

// errLeaving is why a task is cut.
var errLeaving = errors.New("the stager ends; stage the app again")

// New reads the configuration and opens what the stager needs. Run must follow,
// which gives all of it back.
func New(p component.Process) (_ *Stager, err error) {
	cfg, raw, err := load(p.ConfigFile)
	if err != nil {
		return nil, err
	}
	s := &Stager{
		config: cfg,
		places: make(chan int, cfg.MaxActiveTasks),
		usable: map[string]string{},
	}
	for i := range cfg.MaxActiveTasks {
		s.places <- i
	}
	s.working, s.cut = context.WithCancelCause(context.Background())
	s.base, err = component.Open(component.Options{
		Type:    "Stager",
		Process: p,
		Config:  cfg.Config,
		Raw:     raw,
		Varz:    s.varz,
		Facts:   func() map[string]string { return map[string]string{"isolation": s.machine.Level()} },
		Drain:   s.drain,
	})
	if err != nil {
		return nil, err
	}
	s.client = newClient(s.base.Dialer(), nil)
	if cfg.Secure() {
		s.client = newClient(s.base.Dialer(), cfg.DialTLS(s.base.Dialer().DialContext))
	}
	defer func() {
		if err != nil {
			s.base.Close()
		}
	}()
	if s.folder, err = openWorkFolder(cfg, s.base.UUID()); err != nil {
		return nil, err
	}
	if s.machine, err = survey(context.Background(), cfg, s.folder.path, warden.CgroupName("stager", cfg.Dirs.Tmp)); err != nil {
		s.folder.close(s.base.Log())
		return nil, err
	}
	s.base.Log().Info("isolation of plugins", "level", s.machine.Level(), "lacks", s.machine.Lacks)
	return s, nil
}

// survey finds out what the machine offers plugins, and fails if that is less than
// the configuration requires.
func survey(ctx context.Context, c Config, folder, cgroups string) (warden.Machine, error) {
	m, err := warden.Survey(ctx, warden.Trial{Warden: []string{c.Warden}, Records: folder, Folder: filepath.Join(folder, "trials"), User: firstUser, Cgroups: cgroups})
	if err == nil {
		if err = errors.Join(m.Require(c.Isolation), m.RequireNetwork(c.Network)); err != nil {
			m.Close()
		}
	}
	return m, err
}

// CheckIsolation says at which level the machine keeps plugins apart, and fails if
// the configuration requires more. It touches no stager that runs.
func CheckIsolation(ctx context.Context, p component.Process, out io.Writer) error {
	cfg, _, err := load(p.ConfigFile)
	if err != nil {
		return err
	}
	id := "check-" + component.RandomHex()
	folder, err := openWorkFolder(cfg, id)
	if err != nil {
		return err
	}
	defer folder.close(slog.New(slog.DiscardHandler))
	m, err := survey(ctx, cfg, folder.path, "stager-"+id)
	if err != nil {
		return err
	}
	m.Close()
	_, err = fmt.Fprintf(out, "isolation of plugins: %s\n", m.Level())
	return err
}

// Run stages until ctx ends, then lets tasks finish for a moment.
func (s *Stager) Run(ctx context.Context) error {
	defer s.base.Close()
	defer s.machine.Close()
	defer s.folder.close(s.base.Log())
	defer s.client.CloseIdleConnections()
	defer s.end() // first, since tasks answer over the bus
	if err := s.subscribe(); err != nil {
		return err
	}
	return s.base.Run(ctx, s.lookAround)
}

func (s *Stager) subscribe() error {
	for _, queue := range s.config.Queues {
		sub, err := s.base.Bus().QueueSubscribe(queue, queue, s.take)
		if err != nil {
			return fmt.Errorf("cannot subscribe %s: %w", queue, err)
		}
		s.mu.Lock()
		s.subscriptions = append(s.subscriptions, sub)
		s.mu.Unlock()
	}
	return nil
}

// lookAround finds out which of the usual runtimes this machine has, for varz
// and the log.
func (s *Stager) lookAround(ctx context.Context) error {
	for _, info := range runtimes.Runtimes() {
		if ctx.Err() != nil {
			return nil
		}
		found, err := s.runtimes.Find(ctx, info)
		if err != nil {
			s.base.Log().Info("a runtime cannot be used on this machine", "runtime", info.Name, "reason", err)
			continue
		}
		s.mu.Lock()
		s.usable[info.Name] = found.Output
		s.mu.Unlock()
	}
	return nil
}

// take begins a task for a request, or refuses it. The request's place in the
// line is this stager's: while it waits, no other one has it.
func (s *Stager) take(m *nats.Msg) {
	request, err := wire.ParseStagingRequest(m.Data)
	if err != nil {
		s.base.Log().Warn("refusing a request", "subject", m.Subject, "error", err)
		s.answer(m, wire.StagingAnswer{TaskID: component.RandomHex(), Error: err.Error()})
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		s.answer(m, wire.StagingAnswer{TaskID: component.RandomHex(), Error: errLeaving.Error()})
		return
	}
	s.waiting++
	s.tasks.Go(func() { s.work(m, request) })
}

func (s *Stager) work(m *nats.Msg, request wire.StagingRequest) {
	ctx, cancel := context.WithTimeoutCause(s.working, s.config.stagingTime(), errTimeout{s.config.stagingTime()})
	defer cancel()
	t := &task{stager: s, id: component.RandomHex(), request: request}
	log := s.base.Log().With("task", t.id, "app", request.AppID, "framework", request.Properties.Framework)

	place, most := -1, s.config.MaxActiveTasks
	if request.Owner != "" { // controllers of earlier versions do not say it
		most = max(1, most/2)
	}
	leave, turn := s.turns.take(ctx, request.Owner, most)
	if turn {
		select {
		case place = <-s.places:
		case <-ctx.Done():
		}
	}
	s.mu.Lock()
	s.waiting--
	s.running++
	s.mu.Unlock()
	begun := time.Now()
	var err error
	if place >= 0 {
		err = t.run(ctx, place)
		s.places <- place
	} else {
		err = context.Cause(ctx)
	}
	leave()

	s.mu.Lock()
	s.running--
	if err == nil {
		s.staged++
	} else {
		s.failed++
	}
	s.mu.Unlock()
	answer := wire.StagingAnswer{TaskID: t.id, TaskLog: t.log.String()}
	if err == nil {
		log.Info("staged", "took", time.Since(begun).Round(time.Millisecond))
	} else {
		log.Warn("cannot stage", "error", err, "took", time.Since(begun).Round(time.Millisecond))
		answer.Error = err.Error()
	}
	s.answer(m, answer)
}

// answer is lost if the bus is away; whoever asked asks again then.
func (s *Stager) answer(m *nats.Msg, answer wire.StagingAnswer) {
	if m.Reply == "" {
		return
	}
	data, err := json.Marshal(answer)
	if err == nil {
		err = m.Respond(data)
	}
	if err != nil {
		s.base.Log().Warn("cannot answer", "task", answer.TaskID, "error", err)
	}
}

// end cuts the tasks that are left and waits for them.
func (s *Stager) end() {
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	s.cut(errLeaving)
	s.tasks.Wait()
}

func (s *Stager) varz() map[string]any {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := make(map[string]string, len(s.usable))
	for name, output := range s.usable {
		found[name] = output
	}
	doc := map[string]any{
		"runtimes":      found,
		"isolation":     s.machine.Varz(),
		"waiting_tasks": s.waiting,
		"running_tasks": s.running,
		"staged":        s.staged,
		"failed":        s.failed,
	}
	if s.leaving {
		doc["state"] = wire.StateShuttingDown
	}
	return doc
}

// drain takes no more requests and finishes those that it has. When ctx ends,
// they are cut, and whoever waits for them is told.
func (s *Stager) drain(ctx context.Context) error {
	s.mu.Lock()
	s.leaving = true
	subscriptions := s.subscriptions
	s.mu.Unlock()
	for _, sub := range subscriptions {
		// The bus gives these requests to others; those that came before are taken.
		if err := sub.Drain(); err != nil {
			s.base.Log().Warn("cannot leave the queue", "subject", sub.Subject, "error", err)
		}
	}
	drained := func() bool {
		for _, sub := range subscriptions {
			if sub.IsValid() {
				return false
			}
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.waiting+s.running == 0
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !drained() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			s.cut(errLeaving)
			return fmt.Errorf("cannot finish all stagings: %w", context.Cause(ctx))
		}
	}
	return nil
}
