package core

import "github.com/clusterworks/deploy/jobs/wire"

// Event describes what happened.
type Event interface{ event() }

type (
	// Start is a start document. The ids are new random ones.
	Start struct {
		Document      wire.DEAStart
		ID, PrivateID string
	}
	// Launched says that the instance's process was started.
	Launched struct {
		ID                           string
		Port, DebugPort, ConsolePort int
	}
	// Ready says that the instance serves.
	Ready struct{ ID string }
	// Failed says that the instance could not be launched. Fault says that this was
	// no fault of the app's, Logged that its folder has a log with the reason.
	Failed struct {
		ID            string
		Why           string
		Fault, Logged bool
	}
	// Unfit says that the instance cannot be run here at all, for lack of its
	// runtime: the start is as if it had been ignored.
	Unfit struct{ ID string }
	// Ended says that nothing of the instance's processes is left. Why is for its
	// log, "" if there is nothing to say.
	Ended struct {
		ID  string
		Why string
	}
	// Lost says, after a reboot, that the instance's process went with the machine.
	Lost struct{ ID string }
	// Over says that the instance uses more than it may.
	Over struct {
		ID  string
		Why string
	}
	// Used is a sample of what the instance uses.
	Used struct {
		ID    string
		Usage wire.Usage
	}
	// Stop is a dea.stop.
	Stop struct{ Filter wire.DEAStop }
	// Update is a dea.update.
	Update struct{ Update wire.DEAUpdate }
	// Reap looks for crashed instances that were kept long enough.
	Reap struct{}
	// DiskFull says whether there is too little room on the disk.
	DiskFull struct{ Full bool }
	// Evacuate begins to leave: nothing new is taken, and what runs is asked to be
	// started elsewhere.
	Evacuate struct{}
	// Replaced says that another DEA runs this index of the app now.
	Replaced struct {
		Droplet wire.ID
		Version string
		Index   int
	}
	// GiveUp ends the wait for replacements.
	GiveUp struct{}
	// Shutdown ends everything at once.
	Shutdown struct{}
)

func (Start) event()    {}
func (Launched) event() {}
func (Ready) event()    {}
func (Failed) event()   {}
func (Unfit) event()    {}
func (Ended) event()    {}
func (Lost) event()     {}
func (Over) event()     {}
func (Used) event()     {}
func (Stop) event()     {}
func (Update) event()   {}
func (Reap) event()     {}
func (DiskFull) event() {}
func (Evacuate) event() {}
func (Replaced) event() {}
func (GiveUp) event()   {}
func (Shutdown) event() {}

// Action describes what is to be done.
type Action interface{ action() }

type (
	// Attend brings the instance up: bits, folder, process, readiness. Events tell
	// how far it came.
	Attend struct{ Instance Instance }
	// End stops the instance, which is withdrawn from the routers already: requests
	// in progress are finished first, unless it is to be quick. Ended follows.
	End struct {
		ID    string
		Quick bool
	}
	// Kill ends the instance at once. Ended follows.
	Kill struct{ ID string }
	// Log appends a line to the instance's own log.
	Log struct {
		ID   string
		Text string
	}
	// Discard removes what is left of the instance.
	Discard struct {
		ID     string
		Folder string
	}
	// Trim removes all of an instance but its logs.
	Trim struct {
		ID     string
		Folder string
	}
	// Register and Unregister tell the routers.
	Register   struct{ Route wire.Registration }
	Unregister struct{ Route wire.Registration }
	// Publish sends a message. A message that is Kept is sent again when the bus
	// comes back, if it was away.
	Publish struct {
		Subject string
		Message any
		Kept    bool
	}
	// Refused says that a start document was ignored, and why.
	Refused struct {
		Document wire.DEAStart
		Why      error
	}
)

func (Attend) action()     {}
func (End) action()        {}
func (Kill) action()       {}
func (Log) action()        {}
func (Discard) action()    {}
func (Trim) action()       {}
func (Register) action()   {}
func (Unregister) action() {}
func (Publish) action()    {}
func (Refused) action()    {}
