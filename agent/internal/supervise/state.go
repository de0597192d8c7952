package supervise

import "github.com/clusterworks/deploy/agent/api"

// event describes what happened to a process, or what was asked of it.
type event int

const (
	eventStart   event = iota // it shall run
	eventRetry                // its pause after an end is over
	eventStop                 // it shall not run
	eventReady                // its checks pass
	eventUnready              // a check that had passed fails
	eventEnded                // it ended, or could not be started
	eventLeft                 // it ended after it was drained: as asked for
)

// action describes what a transition asks for.
type action int

const (
	actLaunch    action = iota // start a shim; then its checks, or eventEnded
	actStop                    // ask the shim for the end; eventEnded follows
	actPause                   // eventRetry after the pause of the restart policy
	actEndPause                // no eventRetry any more
	actEndChecks               // no eventReady, eventUnready any more
)

// next is the whole life of a process. An event that means nothing in a state
// leaves it as it is.
func next(s api.ProcessState, e event) (api.ProcessState, []action) {
	switch s {
	case api.ProcessStopped:
		if e == eventStart {
			return api.ProcessStarting, []action{actLaunch}
		}
	case api.ProcessBackoff:
		switch e {
		case eventStart:
			return api.ProcessStarting, []action{actEndPause, actLaunch}
		case eventRetry:
			return api.ProcessStarting, []action{actLaunch}
		case eventStop:
			return api.ProcessStopped, []action{actEndPause}
		}
	case api.ProcessStarting, api.ProcessRunning, api.ProcessFailing:
		switch e {
		case eventReady:
			return api.ProcessRunning, nil
		case eventUnready:
			if s == api.ProcessRunning {
				return api.ProcessFailing, nil
			}
		case eventEnded:
			return api.ProcessBackoff, []action{actEndChecks, actPause}
		case eventLeft:
			return api.ProcessStopped, []action{actEndChecks}
		case eventStop:
			return api.ProcessStopping, []action{actEndChecks, actStop}
		}
	case api.ProcessStopping:
		if e == eventEnded || e == eventLeft {
			return api.ProcessStopped, nil
		}
	}
	return s, nil
}
