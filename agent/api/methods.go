package api

import (
	"fmt"
	"strconv"
	"strings"
)

// Method names one request of the API.
type Method string

// The methods. Reads may be sent by anyone who reaches the agent; those that
// change something carry a Change and are refused under a lower epoch.
const (
	// MethodInventory asks what is there: no request body, reply Inventory.
	MethodInventory Method = "inventory"
	// MethodSpec reads one staged or active generation: SpecRequest, reply Spec.
	MethodSpec Method = "spec"
	// MethodLog reads a piece of a process's log: LogRequest, reply LogChunk.
	MethodLog Method = "log"
	// MethodDrift reads everything that was installed and tells what differs: no
	// request body, reply DriftReport.
	MethodDrift Method = "drift"
	// MethodCensus has the jobs say what lives on the instance: no request body, reply
	// CensusReport.
	MethodCensus Method = "census"
	// MethodMetrics tells figures for monitoring: no request body, reply Metrics.
	MethodMetrics Method = "metrics"
	// MethodSubmit accepts an operation: Submission, reply Operation.
	MethodSubmit Method = "submit"
	// MethodWait follows an operation: WaitRequest, reply Progress.
	MethodWait Method = "wait"
	// MethodCancel ends an errand (or another operation that leaves nothing half
	// done): CancelRequest, reply Operation.
	MethodCancel Method = "cancel"
)

// Methods lists every method, in the order of the documentation.
func Methods() []Method {
	return []Method{MethodInventory, MethodSpec, MethodLog, MethodDrift, MethodCensus, MethodMetrics, MethodSubmit, MethodWait, MethodCancel}
}

// ServiceName is the name under which agents appear as NATS micro services.
const ServiceName = "agent"

// Subject returns where the agent of an instance ("router/0") listens for a method.
func Subject(instance string, m Method) string {
	return "agent." + SubjectToken(instance) + "." + string(m)
}

// HeartbeatSubject returns where the agent of an instance publishes Heartbeat.
func HeartbeatSubject(instance string) string { return "heartbeat." + SubjectToken(instance) }

// HeartbeatWildcard matches the heartbeats of all instances.
const HeartbeatWildcard = "heartbeat.*.*"

// InboxPrefix is the reply-subject prefix that an instance's credential allows.
func InboxPrefix(instance string) string { return "_INBOX_agent." + SubjectToken(instance) }

// SubjectToken turns "router/0" into "router.0". Group names hold neither dots
// nor wildcards (manifests checks them), so the result is two tokens.
func SubjectToken(instance string) string { return strings.ReplaceAll(instance, "/", ".") }

// InstanceID is the identifier of an instance: "router/0".
func InstanceID(group string, index int) string { return group + "/" + strconv.Itoa(index) }

// SplitInstance is the inverse of InstanceID.
func SplitInstance(id string) (group string, index int, err error) {
	group, number, found := strings.Cut(id, "/")
	if !found || group == "" {
		return "", 0, fmt.Errorf("cannot read instance id %q: want group/index", id)
	}
	index, err = strconv.Atoi(number)
	if err != nil || index < 0 {
		return "", 0, fmt.Errorf("cannot read instance id %q: index is not a number", id)
	}
	return group, index, nil
}

// The identity of whoever connects to the bus is the URI SAN of its client
// certificate, signed by the deployment's CA.

// AgentIdentity is the certificate URI of an instance's agent.
func AgentIdentity(deploymentID, instance string) string {
	return "deploy://" + deploymentID + "/agent/" + instance
}

// DeployerIdentity is the certificate URI of a deployer.
func DeployerIdentity(deploymentID string) string {
	return "deploy://" + deploymentID + "/deployer"
}

// PackageBucket is the JetStream object store that caches packages by digest.
const PackageBucket = "packages"
