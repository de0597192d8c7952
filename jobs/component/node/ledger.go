package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/google/renameio/v2"

	"github.com/clusterworks/deploy/agent/host/damaged"
	"github.com/clusterworks/deploy/jobs/wire"
)

// ledger is the record of a node's instances, one file each. A change is on disk
// before anything follows from it.
type ledger struct {
	folder string

	mu        sync.Mutex
	instances map[string]Instance
	busy      map[string]chan struct{} // of each instance that an operation is at; closed at its end
	damaged   int                      // files that cannot be read: their instances may be there
}

var (
	errFull   = wire.Failure(wire.ServiceInternal, "the node is full")
	errExists = errors.New("there is an instance of that name")
)

// openLedger reads what is there. Notes are for the log.
func openLedger(folder string) (_ *ledger, notes []string, err error) {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, nil, fmt.Errorf("cannot make the folder of the instances' records: %w", err)
	}
	l := &ledger{folder: folder, instances: map[string]Instance{}, busy: map[string]chan struct{}{}}
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot list the instances' records: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(folder, e.Name())
		if strings.HasSuffix(e.Name(), ".damaged") {
			l.damaged++
			continue
		}
		if !strings.HasSuffix(e.Name(), ".json") {
			continue // a temporary file of a process that was killed
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, nil, fmt.Errorf("cannot read an instance's record: %w", err)
		}
		i, err := parseRecord(data)
		if err == nil && i.Name+".json" != e.Name() {
			err = fmt.Errorf("it is the record of %q", i.Name)
		}
		if err != nil {
			note, err := damaged.SetAside(path, err)
			if err != nil {
				return nil, nil, err
			}
			l.damaged++
			notes = append(notes, note)
			continue
		}
		l.instances[i.Name] = i
	}
	return l, notes, nil
}

// parseRecord reads an instance's file.
func parseRecord(data []byte) (Instance, error) {
	var i Instance
	if err := json.Unmarshal(data, &i); err != nil {
		return Instance{}, errors.New("it is no record")
	}
	if !wire.ValidServiceInstance(i.Name) {
		return Instance{}, errors.New("its name cannot be an instance's")
	}
	states := []State{Making, Whole, Removing}
	for _, b := range i.Bindings {
		if !wire.ValidServiceInstance(b.User) || !slices.Contains(states, b.State) {
			return Instance{}, errors.New("one of its bindings is no record")
		}
	}
	if !slices.Contains(states, i.State) {
		return Instance{}, fmt.Errorf("its state %q is unknown", i.State)
	}
	return i, nil
}

// hold waits until no other operation is at an instance; release ends it. ok is
// false if done was closed first.
func (l *ledger) hold(done <-chan struct{}, name string) (release func(), ok bool) {
	for {
		l.mu.Lock()
		other, taken := l.busy[name]
		if !taken {
			mine := make(chan struct{})
			l.busy[name] = mine
			l.mu.Unlock()
			return func() {
				l.mu.Lock()
				delete(l.busy, name)
				l.mu.Unlock()
				close(mine)
			}, true
		}
		l.mu.Unlock()
		select {
		case <-other:
		case <-done:
			return nil, false
		}
	}
}

// held reports whether an operation is at an instance.
func (l *ledger) held(name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, taken := l.busy[name]
	return taken
}

// get returns an instance's record.
func (l *ledger) get(name string) (Instance, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i, there := l.instances[name]
	return i.clone(), there
}

// list returns all records, by name.
func (l *ledger) list() []Instance {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := make([]Instance, 0, len(l.instances))
	for _, name := range slices.Sorted(maps.Keys(l.instances)) {
		list = append(list, l.instances[name].clone())
	}
	return list
}

// available returns how many more instances there may be.
func (l *ledger) available(capacity int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return available(capacity, len(l.instances)+l.damaged)
}

// add takes a place and a port for an instance that is to be made, and returns it.
func (l *ledger) add(i Instance, capacity int, ports PortRange) (Instance, error) {
	reserve := func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		if _, there := l.instances[i.Name]; there {
			return errExists
		}
		if available(capacity, len(l.instances)+l.damaged) == 0 {
			return errFull
		}
		if ports.Low > 0 {
			if i.Port = freePort(ports.Low, ports.High, slices.Collect(maps.Values(l.instances))); i.Port == 0 {
				return errFull
			}
		}
		l.instances[i.Name] = i.clone()
		return nil
	}
	if err := reserve(); err != nil {
		return Instance{}, err
	}
	if err := l.write(i); err != nil {
		l.mu.Lock()
		delete(l.instances, i.Name)
		l.mu.Unlock()
		return Instance{}, errors.Join(err, l.erase(i.Name))
	}
	return i, nil
}

// put replaces a record.
func (l *ledger) put(i Instance) error {
	if err := l.write(i); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.instances[i.Name] = i.clone()
	return nil
}

// retire marks a user of an instance that somebody else holds: keepTidy removes it.
func (l *ledger) retire(name, user string) error {
	i, there := l.get(name)
	at := i.binding(user)
	if !there || at < 0 {
		return nil
	}
	i.Bindings[at].State = Removing
	return l.put(i)
}

// remove forgets an instance.
func (l *ledger) remove(name string) error {
	if err := l.erase(name); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.instances, name)
	return nil
}

func (l *ledger) write(i Instance) error {
	data, err := json.MarshalIndent(i, "", "  ")
	if err == nil {
		err = renameio.WriteFile(filepath.Join(l.folder, i.Name+".json"), data, 0o600)
	}
	if err == nil {
		err = syncFolder(l.folder)
	}
	if err != nil {
		return fmt.Errorf("cannot keep the record of %s: %w", i.Name, err)
	}
	return nil
}

func (l *ledger) erase(name string) error {
	err := os.Remove(filepath.Join(l.folder, name+".json"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = syncFolder(l.folder)
	}
	if err != nil {
		return fmt.Errorf("cannot remove the record of %s: %w", name, err)
	}
	return nil
}

func syncFolder(path string) error {
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	defer folder.Close()
	return folder.Sync()
}
