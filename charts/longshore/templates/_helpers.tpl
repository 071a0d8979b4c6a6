{{- define "longshore.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "longshore.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "longshore.name" . -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- /* Names of cluster-wide objects carry the namespace, so that two releases can stand side by side. */ -}}
{{- define "longshore.clusterName" -}}
{{- $full := include "longshore.fullname" . -}}
{{- ternary $full (printf "%s-%s" .Release.Namespace $full) (eq .Release.Namespace $full) -}}
{{- end -}}

{{- define "longshore.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: {{ include "longshore.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: longshore
{{- end -}}

{{- /* Call with (list $ "component"). */ -}}
{{- define "longshore.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "longshore.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- /* Call with (list $ "name of the image"). */ -}}
{{- define "longshore.image" -}}
{{- $root := index . 0 -}}
{{- $name := index . 1 -}}
{{- index $root.Values.images $name | default (printf "%s/%s:%s" (trimSuffix "/" $root.Values.image.registry) $name $root.Values.image.tag) -}}
{{- end -}}

{{- define "longshore.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "longshore.fullname" .) -}}
{{- end -}}

{{- define "longshore.registryHost" -}}
{{- printf "%s-registry.%s.svc:5000" (include "longshore.fullname" .) .Release.Namespace -}}
{{- end -}}

{{- define "longshore.store" -}}
{{- if .Values.store.uri -}}
{{- .Values.store.uri -}}
{{- else if .Values.registry.enabled -}}
{{- printf "oci://%s/longshore" (include "longshore.registryHost" .) -}}
{{- else -}}
{{- fail "artifacts need a place: set store.uri (oci://host/repository), or registry.enabled=true" -}}
{{- end -}}
{{- end -}}

{{- define "longshore.storePlainHttp" -}}
{{- or .Values.store.plainHttp (and .Values.registry.enabled (not .Values.store.uri)) -}}
{{- end -}}

{{- define "longshore.imageVolumes" -}}
{{- if eq .Values.imageVolumes "auto" -}}
{{- semverCompare ">=1.35.0-0" .Capabilities.KubeVersion.Version -}}
{{- else -}}
{{- eq .Values.imageVolumes "always" -}}
{{- end -}}
{{- end -}}

{{- /* HOST=NODE_HOST, separated by blanks. */ -}}
{{- define "longshore.nodeRegistries" -}}
{{- $all := list -}}
{{- if eq (include "longshore.imageVolumes" .) "true" -}}
{{- range .Values.nodeRegistries -}}
{{- $all = append $all (printf "%s=%s" .host (.nodeHost | default .host)) -}}
{{- end -}}
{{- if and .Values.registry.enabled .Values.registry.nodePort -}}
{{- $all = append $all (printf "%s=localhost:%v" (include "longshore.registryHost" .) (int .Values.registry.nodePort)) -}}
{{- end -}}
{{- end -}}
{{- join " " $all -}}
{{- end -}}

{{- define "longshore.plainHttpRegistries" -}}
{{- $all := .Values.plainHttpRegistries -}}
{{- if .Values.registry.enabled -}}
{{- $all = append $all (include "longshore.registryHost" .) -}}
{{- end -}}
{{- join " " $all -}}
{{- end -}}

{{- define "longshore.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "longshore.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "longshore.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{- /* What the operator does with ModelDeployments and their children, wherever it works. */ -}}
{{- define "longshore.rules" -}}
- apiGroups: [longshore.dev]
  resources: [modeldeployments]
  verbs: [get, list, watch, patch]
- apiGroups: [longshore.dev]
  resources: [modeldeployments/status]
  verbs: [patch]
# Owner references that block deletion need it where OwnerReferencesPermissionEnforcement is on.
- apiGroups: [longshore.dev]
  resources: [modeldeployments/finalizers]
  verbs: [update]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [services, serviceaccounts]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [gateway.networking.k8s.io]
  resources: [httproutes, grpcroutes]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [keda.sh]
  resources: [scaledobjects]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [events]
  verbs: [create]
{{- end -}}
