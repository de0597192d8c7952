package session

import (
	"maps"
	"slices"

	"github.com/clusterworks/deploy/deployer/internal/state"
)

// VM returns a VM, or the zero VM if there is none.
func (s *Session) VM(id state.VMID) state.VM {
	s.mu.Lock()
	defer s.mu.Unlock()
	if id.Previous {
		return s.State.Previous[id.Instance]
	}
	return s.State.VMs[id.Instance]
}

// VMs returns the instances' VMs by instance.
func (s *Session) VMs() map[string]state.VM {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.State.VMs)
}

// VMIDs returns the instances that have a VM, sorted.
func (s *Session) VMIDs() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.State.VMs))
}

// Previous returns the previous VMs by instance.
func (s *Session) Previous() map[string]state.VM {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.State.Previous)
}

// PreviousVMs returns the instances that have a previous VM beside their own,
// sorted.
func (s *Session) PreviousVMs() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.State.Previous))
}

// HasPrevious reports whether an instance has a previous VM beside its own.
func (s *Session) HasPrevious(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, has := s.State.Previous[id]
	return has
}

// ObsoleteVMs returns the instances whose previous VM this session may delete.
// It is none if the session has targets: those who use the VMs and are no target
// would not learn the new addresses.
func (s *Session) ObsoleteVMs() []string {
	if len(s.Targets) > 0 {
		return nil
	}
	return slices.DeleteFunc(s.PreviousVMs(), func(id string) bool { return !s.Touches(id) })
}
